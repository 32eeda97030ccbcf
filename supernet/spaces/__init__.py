"""The search spaces, by name: one file here and one YAML in `configs/space`."""

from __future__ import annotations

from functools import cache

import configs
from supernet.space import SearchSpace


@cache
def get(name: str) -> SearchSpace:
    """The space `name`; ValueError with the known names and the nearest spelling otherwise."""
    space = configs.build(configs.load("space", name))
    assert isinstance(space, SearchSpace)
    return space
