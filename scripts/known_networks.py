from search.commands.shipped.known_networks import main

main()
