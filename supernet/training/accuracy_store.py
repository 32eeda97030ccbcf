"""Measured accuracies of subnets, in one file that only grows."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from supernet.files import append_only
from supernet.weights.quality import Quality

TABLES = {
    "settings": "id TEXT PRIMARY KEY, facts TEXT NOT NULL",
    "accuracies": (
        "setting TEXT NOT NULL REFERENCES settings(id), architecture TEXT NOT NULL, "
        "correct INTEGER NOT NULL, images INTEGER NOT NULL, seconds REAL NOT NULL, unix_time REAL NOT NULL, "
        "PRIMARY KEY (setting, architecture)"
    ),
    "qualities": (  # of those that were judged in more than their top-1
        "setting TEXT NOT NULL REFERENCES settings(id), architecture TEXT NOT NULL, top5 REAL NOT NULL, "
        "loss REAL NOT NULL, ece REAL NOT NULL, PRIMARY KEY (setting, architecture)"
    ),
}


@dataclass(frozen=True)
class Measured:
    """How many of the images one subnet classified correctly, and how long that took."""

    correct: int
    images: int
    seconds: float  # of extracting, calibrating and classifying


class AccuracyStore:
    """Counts of correct images by setting and architecture.

    A setting is the SHA-256 of the facts that a value depends on. Several processes may read and write at
    once.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = append_only.Database(self.path, "accuracy", TABLES)
        self._file.connect().close()

    @staticmethod
    def key(facts: Mapping[str, Any]) -> str:
        """The setting of these facts."""
        return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()

    def add(self, facts: Mapping[str, Any], architecture: str, measured: Measured) -> None:
        """Commit one value; one that is there already stays."""
        setting, text = self.key(facts), json.dumps(dict(facts), sort_keys=True)
        keys = {"setting": setting, "architecture": architecture, "unix_time": time.time()}
        with self._file.opened() as database:
            append_only.insert(database, "settings", {"id": setting, "facts": text})
            append_only.insert(database, "accuracies", keys | asdict(measured))

    def add_quality(
        self, facts: Mapping[str, Any], architecture: str, quality: Quality, seconds: float
    ) -> None:
        """Commit a whole quality; one that is there already stays."""
        keys = {"setting": self.key(facts), "architecture": architecture}
        self.add(facts, architecture, Measured(quality.correct, quality.images, seconds))
        with self._file.opened() as database:
            values = {"top5": quality.top5, "loss": quality.loss, "ece": quality.ece}
            append_only.insert(database, "qualities", keys | values)

    def qualities(self, facts: Mapping[str, Any]) -> dict[str, Quality]:
        """The whole qualities of this setting, by architecture, in the order they were added."""
        query = (
            "SELECT architecture, correct, top5, loss, ece, images FROM qualities "
            "JOIN accuracies USING (setting, architecture) WHERE setting = ? ORDER BY qualities.rowid"
        )
        with self._file.opened() as database:
            rows = database.execute(query, (self.key(facts),)).fetchall()
        return {
            name: Quality(correct / images, top5, loss, ece, images)
            for name, correct, top5, loss, ece, images in rows
        }

    def values(self, facts: Mapping[str, Any]) -> dict[str, Measured]:
        """Everything measured in this setting, by architecture, in the order it was added."""
        query = (
            "SELECT architecture, correct, images, seconds FROM accuracies WHERE setting = ? ORDER BY rowid"
        )
        with self._file.opened() as database:
            rows = database.execute(query, (self.key(facts),)).fetchall()
        return {name: Measured(correct, images, seconds) for name, correct, images, seconds in rows}
