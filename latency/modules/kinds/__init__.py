"""The kinds of modules that networks are made of: one class here and one YAML in configs/module for each.

May import supernet; nothing here imports torch, because predictions need the kinds too.
"""
