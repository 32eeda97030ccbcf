"""A device that is reached over a connection as a target: what `target=ssh://pi@board` builds."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from latency.measuring.remote import reached
from latency.measuring.remote.transports import Reach
from latency.target import Target, condition_words
from supernet.device import Device
from supernet.options import PositiveInt, checked

Kind = Literal["cpu", "mobile", "embedded"]


@checked
def remote(
    at: str,
    *,
    space: str = "ofa_mbv3_w1.0",
    engine: Literal["onnxruntime"] = "onnxruntime",
    precision: Literal["fp32", "int8"] = "fp32",
    batch: PositiveInt = 1,
    threads: PositiveInt = 1,
) -> Target:
    """The device at an address, which is asked what it is: what `configs/target/remote.yaml` builds.

    `at` is ssh://[USER@]HOST[:PORT], adb:SERIAL, docker://CONTAINER or local; options follow it as in a URL
    (`?python=PATH`). ValueError when it cannot be reached, or lacks what measuring needs.
    """
    board = reached.place(Reach.from_address(at))
    try:
        facts = board.facts
    finally:
        board.close()
    reached.remember(board.reach, facts)
    spec = device(facts, board.reach)
    words = [spec.name, str(facts["unit"])[:4], engine, precision, *condition_words(batch, threads, 0.0)]
    return Target(
        name="_".join(words),
        device=spec,
        space=space,
        batch=batch,
        engine=engine,
        precision=precision,
        threads=threads,
        method="measured",
        source="measured on the device",
        unit=str(facts["unit"]),
    )


def device(facts: Mapping[str, Any], reach: Reach) -> Device:
    """What is known of a device by what it says of itself."""
    model = str(facts["model"] or facts["machine"])
    cores = facts["cores"] or facts["usable_cores"]
    parts = [re.sub(r"[^a-z0-9]+", "_", model.lower()).strip("_"), *facts["ids"], f"{cores}c"]
    return Device(
        name="_".join(part for part in parts if part),
        title=f"{model} ({cores} cores)",
        kind=_kind(facts, reach),
        source="what the device says of itself",
        cores=cores,
        ram_gb=facts["ram_gb"],
    )


def _kind(facts: Mapping[str, Any], reach: Reach) -> Kind:
    if reach.address.startswith("adb"):
        return "mobile"
    return "cpu" if facts["machine"] in ("x86_64", "AMD64") else "embedded"


def in_int8(target: Target) -> Target:
    """The same device in int8 instead of fp32."""
    return replace(target, precision="int8", name=target.name.replace("_fp32_", "_int8_"))
