"""Predictors that ship, one fitted file per target here, and what becomes of them on the machine at hand.

May import all of `latency`.
"""
