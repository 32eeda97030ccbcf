"""Compare the fronts of finished searches: `make compare ARGS="runs/a runs/b"`."""

from search.commands.judging.compare import Options, main

__all__ = ["Options", "main"]
