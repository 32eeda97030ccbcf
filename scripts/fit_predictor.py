from search.commands.fit import main

main()
