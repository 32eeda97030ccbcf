from search.commands.adapt import main

main()
