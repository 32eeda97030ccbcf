"""Write what was measured for others: `make publish ARGS="run=runs/board licence=CC-BY-4.0"`.

The folder has tables, the predictor and a card that says what the latencies mean.
"""

from pathlib import Path
from typing import Any

from latency.measuring.store import Store
from latency.zoo import shared
from search import command
from supernet.files.command_line import then


@command.options
class Options:
    """What `make publish` takes."""

    run: Path  # run folder of a make adapt
    licence: str  # of the measurements: CC-BY-4.0, CC0-1.0, ...
    out: Path | None = None  # the folder; None: the run's name with -published
    store: Path = Path("runs/measurements.sqlite")  # that it was measured into


@command.named("publish")
def main(options: Options, config: dict[str, Any]) -> None:
    out = options.out or options.run.with_name(f"{options.run.name}-published")
    if not options.store.is_file():
        raise ValueError(f"no file store={options.store}; name the one of run={options.run}")
    with Store(options.store) as store:
        card = shared.publish(options.run, out, store=store, licence=options.licence)
    print(f"{out}: {card['samples']} samples, {', '.join(card['files'])}, {shared.CARD} and {shared.README}")
    print("to share it: upload the folder, for instance to Hugging Face (then predictor=hf:OWNER/NAME)")
    print(then("search", predictor=f"{shared.FOLDER}{out}"))
