"""The front: objectives, searchers, archive, run folder, report.

from pathlib import Path
from search import problem, run
from search.searchers.nsga2 import NSGA2

asked = problem.build(["accuracy", "latency_ms", "training_hours"])
found = run.run(asked, NSGA2(), budget=50_000, seed=0, out=Path("runs/mine"), config={"seed": 0})
found.front.show()
"""
