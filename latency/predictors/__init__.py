"""Latency predictors of whole subnets: one method per file here, one YAML each in `configs/learner`.

Defaults are in the class. May import latency's top floor.
"""
