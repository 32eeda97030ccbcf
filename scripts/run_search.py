from search.commands.search import main

main()
