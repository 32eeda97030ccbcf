"""Starters of the commands, one per command; the commands themselves are in `search/commands`."""
