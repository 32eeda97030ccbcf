"""The commands: one file each that reads the configuration, calls one function and prints.

May import everything.
"""
