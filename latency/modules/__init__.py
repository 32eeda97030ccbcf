"""Latency per module, for any network: module kinds, tracing, regressors, selection.

May import `measuring` and `predictors`.
"""
