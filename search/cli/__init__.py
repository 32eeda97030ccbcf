"""The command line: how Hydra finds the configuration of a command, its help, its lists, its sweeps.

May import supernet, latency and the top floor of search.
"""
