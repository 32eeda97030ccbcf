"""The commands: one file each that reads the configuration, calls one function and prints.

Each has a YAML of its name in `configs`; those that judge networks have a room, `judging`.

May import everything.
"""
