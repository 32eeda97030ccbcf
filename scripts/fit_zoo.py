from search.commands.shipped.zoo import main

main()
