"""Measure top-1, top-5, loss and calibration error of subnets: `make evaluate ARGS="weights=runs/mine"`."""

from search.commands.judging.evaluate import Options, main

__all__ = ["Options", "main"]
