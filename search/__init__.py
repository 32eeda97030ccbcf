"""The front: objectives, searchers, report; `archive` keeps it by the dominance of `pareto`.

from search import search
front = search(target="v100_b64", latency_limit_ms=12)
front.best(latency_ms=10)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.api import Front

__version__ = "0.2.0.dev0"  # the one place: pyproject.toml reads it here


def search(**options: Any) -> "Front":
    """The front of a search with the options of `make search`, of which it takes the same way.

    Words of the command line are keywords here: `target="gpu", **{"target.device": "rtx_4090"}`, or nested,
    `limits={"params": 6e6}`. `objectives` may hold an `Objective` of your own. Without `out` no run folder is
    kept. ValueError says which option is wrong.

    >>> front = search(target="v100_b64", latency_limit_ms=12)
    >>> front.best(latency_ms=10)["architecture"]
    """
    from search.commands.search import from_python  # this package stays light until something is searched

    return from_python(options)
