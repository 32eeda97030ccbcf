"""Searchers: one file each here, one YAML each in `configs/searcher`; defaults are in the class.

May import search's top floor.
"""
