"""`python -m search.commands COMMAND words...`, the same as `python -m search`."""

from search.cli.entry import main

main()
