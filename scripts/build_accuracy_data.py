from search.commands.accuracy_data import main

main()
