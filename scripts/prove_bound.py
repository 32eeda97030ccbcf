from search.commands.bound import main

main()
