"""Timing networks on this machine: protocol, store, machine facts. May import latency's top floor."""
