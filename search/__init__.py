"""The front: objectives, searchers, report; `archive` keeps it by the dominance of `pareto`.

from pathlib import Path
from search import problem
from search.run import Search
from search.searchers.nsga2 import NSGA2

asked = problem.build(["accuracy", "latency_ms", "training_hours"])
Search(asked, NSGA2(), budget=50_000, seed=0, out=Path("runs/mine")).run().front.show()
"""

__version__ = "0.2.0.dev0"  # the one place: pyproject.toml reads it here
