from search.commands.shrink import main

main()
