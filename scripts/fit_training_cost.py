from search.commands.shipped.training_cost import main

main()
