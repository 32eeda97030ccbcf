"""Engines, what runs a network: one file each here, one YAML each in `configs/engine`.

May import nothing else of `latency`.
"""
