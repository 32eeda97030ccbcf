from search.commands.export import main

main()
