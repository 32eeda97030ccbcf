"""Measuring on other devices: how one is reached (transports), what runs there (runner), and what it is as a
target and as a place of sittings.

May import latency's top floor and the files of measuring.
"""
