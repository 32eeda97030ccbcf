"""List what there is, with its error and where it is from: `ofa-frontier list targets`."""

from search.cli.listing import main

__all__ = ["main"]
