"""Search spaces: one file per family here, one YAML per space in `configs/space`.

May import supernet's top floor.
"""
