"""Where weights come from: what `weights=` of the commands names, files of others, downloads.

May import weights and what weights may.
"""
