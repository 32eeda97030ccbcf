from search.commands.train import main

main()
