"""Searchers: one file each here, one YAML each in `configs/searcher`. May import search's top floor."""
