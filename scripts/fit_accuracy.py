from search.commands.shipped.accuracy import main

main()
