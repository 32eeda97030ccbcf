from search.commands.measure import main

main()
