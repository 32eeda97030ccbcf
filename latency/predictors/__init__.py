"""Latency predictors of whole subnets: one method per file here, one YAML each in `configs/learner`.

May import latency's top floor.
"""
