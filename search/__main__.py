"""`python -m search COMMAND words...`."""

from search.cli.entry import main

main()
