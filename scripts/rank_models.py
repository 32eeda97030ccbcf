from search.commands.judging.rank import main

main()
