"""How far a front is from the best there can be: proven bounds on the accuracy within a limit.

May import from supernet, latency and the top floor of search.
"""
