"""Protocols of published papers that `benchmarks.latency_tables` repeats, one file a paper."""
