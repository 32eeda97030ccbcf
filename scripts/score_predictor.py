from search.commands.score import main

main()
