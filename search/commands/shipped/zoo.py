"""Fit the predictors that ship in latency/zoo again: `python -m scripts.fit_zoo [name ...]`."""

import sys

from latency.zoo import build
from supernet.files.tables import data_dir


def main() -> None:
    for line in build.build(sys.argv[1:] or build.everything(), data_dir()):
        print(line)
