"""How anything reaches a disk: the artifact codec, tables, run folders.

May import nothing of the other rooms.
"""
