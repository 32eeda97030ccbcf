from search.commands.rank import main

main()
