"""Write the known networks that reports show beside a front: `python -m scripts.known_networks`.

OFA's published networks are from the public table; torchvision's classifiers are traced, nothing is loaded.
"""

import json
from collections import Counter
from typing import Any

import numpy as np

from latency.modules.networks import classifiers, tracing
from search.report import landmarks
from supernet.files import artifact
from supernet.files.tables import data_dir, read_columns, select
from supernet.space import get_space

CLASSIFIERS = """
    shufflenet_v2_x0_5 squeezenet1_1 mobilenet_v3_small mnasnet0_75 shufflenet_v2_x1_0 mobilenet_v3_large
    mobilenet_v2 mnasnet1_0 regnet_y_400mf efficientnet_b0 regnet_x_800mf efficientnet_b1 googlenet resnet18
    efficientnet_b2 resnet34 resnet50 vgg11
"""


def published() -> list[dict[str, Any]]:
    """OFA's specialised networks (github han-cai/files, 2020): name, architecture and top-1."""
    rows = read_columns(data_dir() / "ofa_published_nets.csv")
    networks = []
    for name in dict.fromkeys(rows["space"].tolist()):
        part, space = select(rows, rows["space"] == name), get_space(name)
        for title, architecture, top1 in zip(
            part["name"], space.format(space.encode(part)), part["top1"], strict=True
        ):
            short = str(title).partition("_top1")[0].replace("_lat-", " ").replace("-", " ", 1)
            facts = {"name": f"OFA {short}", "architecture": architecture, "top1": round(top1 / 100, 4)}
            networks.append(facts)
    return networks


def traced() -> list[dict[str, Any]]:
    """Classifiers of torchvision: top-1 of their best weights, and their modules with how often each runs."""
    networks = []
    for each in classifiers.select(CLASSIFIERS.split(), 0):
        network, _ = classifiers.network(each, 1)
        modules = tracing.modules(network, (3, each.side, each.side))
        counts = Counter((one.kind, tuple(one.inputs.items())) for one in modules)
        listed = [[kind, count, dict(inputs)] for (kind, inputs), count in counts.items()]
        networks.append(
            {"name": each.name, "top1": round(each.top1, 5), "side": each.side, "modules": listed}
        )
    return networks


def main() -> None:
    content = {"ofa": published(), "torchvision": traced()}
    text = json.dumps(content, separators=(",", ":"), default=np.ndarray.item)
    artifact.write_text(landmarks.FILE, text.replace('{"name"', '\n{"name"').replace(".0,", ",") + "\n")
