"""Benchmarks that the README quotes, each run as `python -m benchmarks.<name>`."""
