from search.commands.finetune import main

main()
