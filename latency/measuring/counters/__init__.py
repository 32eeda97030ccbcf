"""Hardware events while an operator runs: counted by perf, here or in recorded files, or simulated.

May import latency's top floor and the files of measuring.
"""
