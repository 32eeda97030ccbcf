"""Timing networks here: session (the protocol), summary (visits to one latency), store, machine facts.

May import latency's top floor.
"""
