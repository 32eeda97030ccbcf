from search.commands.lookup_table import main

main()
