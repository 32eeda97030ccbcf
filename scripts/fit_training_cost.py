from search.commands.fit_training_cost import main

main()
