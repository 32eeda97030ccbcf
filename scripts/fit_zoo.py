from search.commands.fit_zoo import main

main()
