"""Checkpoints in the form of the OFA authors, with random weights, and a server that hands files out."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from supernet.space import get_space
from supernet.weights import network
from supernet.weights.image_sources import imagenet_wnids

SPACES = ("ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50")


def write_checkpoint(path: Path, space: str) -> Any:
    """Write {"state_dict": ...} under the names that the authors' code had then; returns the network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = network.supernet(get_space(space))
    old = {name.replace(".conv.inverted", ".mobile_inverted_conv.inverted"): tensor
           for name, tensor in module.state_dict().items()}  # fmt: skip
    torch.save({"state_dict": old}, path)
    return module


def write_photos(root: Path, classes: int = 4, train: int = 6, val: int = 4) -> Path:
    """JPEG files of noise in folders named by WordNet ids, as ImageNet is unpacked."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for wnid in imagenet_wnids()[5 :: 1000 // classes][:classes]:
            folder = root / part / wnid
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (150, 180 + i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return root


Headers = Mapping[str, Mapping[str, str]]


@contextmanager
def server(files: Mapping[str, bytes], headers: Headers) -> Iterator[tuple[str, list[str]]]:
    """A server of these files; `headers` change those of a path. Gives its URL and the paths asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            asked.append(self.path)
            self.wfile.write(self._answer())

        def _answer(self) -> bytes:
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            plain = {"Content-Length": str(len(content or b"")), "Content-Type": "application/octet-stream"}
            for name, value in (plain | dict(headers.get(self.path, {}))).items():
                self.send_header(name, value)
            self.end_headers()
            return content or b""

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", asked
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
