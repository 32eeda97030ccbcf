"""Predictors that ship: one fitted file per target here, one YAML each in `configs/target`.

May import all of `latency`.
"""
