from search.commands.fit_accuracy import main

main()
