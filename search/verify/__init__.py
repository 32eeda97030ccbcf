"""Fronts of this machine are measured, and the search goes by what was measured. May import search's top
floor."""
