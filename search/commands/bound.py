"""Prove how accurate a network can be within limits: `make bound ARGS="target=... latency_limit_ms=20"`."""

from search.commands.proof.bound import Options, main

__all__ = ["Options", "main"]
