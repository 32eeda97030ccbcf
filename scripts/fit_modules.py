from search.commands.modules import main

main()
