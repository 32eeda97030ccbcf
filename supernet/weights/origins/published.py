"""The supernets that the OFA authors published, trained on ImageNet: their names, and where the files are.

A file is downloaded when its name is asked for, once, into the cache: $OFA_FRONTIER_CACHE, else
~/.cache/ofa-frontier.
"""

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from supernet.files import artifact, disk
from supernet.registry import unknown_name

CACHE = "OFA_FRONTIER_CACHE"
SILENT_SECONDS = 20.0  # that a server may take to answer, and between two parts of the file
DOWNLOAD_SECONDS = 3600.0  # to wait for another process that downloads the same file
CHUNK = 1 << 20
UNREACHABLE = (OSError, http.client.HTTPException, ValueError)  # ValueError: what came is not the file

_GITHUB = "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets/"
_GITHUB_PAGES = "https://github.com/han-cai/files/raw/master/ofa/ofa_nets/"
_MIT = "https://hanlab.mit.edu/files/OnceForAll/ofa_nets/"
_RESNET = "ofa_resnet50_d0-1-2_e0.2-0.25-0.35_w0.65-0.8-1.0"


@dataclass(frozen=True)
class Published:
    """A checkpoint of the OFA authors: its file name, its space, and {URL: SHA-256 where it is known}."""

    file: str
    space: str
    mirrors: Mapping[str, str | None]

    @property
    def path(self) -> Path:
        """Where the file is kept once it is here."""
        return cache() / self.file


def _mobile(file: str, space: str, sha256: str | None = None) -> Published:
    return Published(file, space, {base + file: sha256 for base in (_GITHUB, _GITHUB_PAGES, _MIT)})


PUBLISHED: Sequence[Published] = (
    # 31,011,816 bytes; the hash is the one that users of the file on GitHub have recorded.
    _mobile(
        "ofa_mbv3_d234_e346_k357_w1.0",
        "ofa_mbv3_w1.0",
        "a7def36bb4e4c688c16d37eb60d5d34b2e6dcf6438c05bc86dea918fda04c6c7",
    ),
    _mobile("ofa_mbv3_d234_e346_k357_w1.2", "ofa_mbv3_w1.2"),
    _mobile("ofa_proxyless_d234_e346_k357_w1.3", "ofa_proxyless_w1.3"),
    Published(
        _RESNET,
        "ofa_resnet50",
        {
            "https://huggingface.co/han-cai/ofa/resolve/main/ofa_supernet_resnet50": None,
            # 192,773,235 bytes; the hash is in the authors' Git LFS pointer (github han-cai/files).
            f"https://media.githubusercontent.com/media/han-cai/files/master/ofa/ofa_nets/{_RESNET}": (
                "3406a4c852f4573a58e9a01f35406baa4ad3787044ffadc6ea45571ad2b9123a"
            ),
            "https://drive.usercontent.google.com/download?id=1xy6VIPEHXqbbqNu3xEZUxhp5FbTVs5cQ"
            "&export=download&confirm=t": None,
        },
    ),
)


def cache() -> Path:
    """The folder that downloaded files are kept in."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "ofa-frontier")


def names() -> dict[str, Published]:
    """{name: checkpoint} by file name and by the name of its space.

    >>> names()["ofa_mbv3_w1.0"].file
    'ofa_mbv3_d234_e346_k357_w1.0'
    """
    return {name: one for one in PUBLISHED for name in (one.space, one.file)}


def find(name: str) -> Published:
    """The published checkpoint of that name; ValueError with the nearest spelling otherwise."""
    if name not in names():
        raise unknown_name("published supernet", name, names())
    return names()[name]


def fetch(published: Published) -> Path:
    """The file of a published checkpoint, downloaded from the first mirror that has it unless it is here.

    ValueError that names the file and where to put it when no mirror gives it, and for a file in the cache
    that is not the published one.
    """
    path, known = published.path, [*published.mirrors.values()]
    if path.is_file():
        if None not in known and (checksum := artifact.checksum(path)) not in known:
            raise ValueError(
                f"{path} has the SHA-256 {checksum}, expected {known[0]}: it is not the published file; "
                "remove it, or name it by its path if that is what you mean"
            )
        return path
    failures = []
    with disk.reserved(path, DOWNLOAD_SECONDS):
        if path.is_file():  # another process has downloaded it meanwhile
            return path
        for url, sha256 in published.mirrors.items():
            try:
                download(url, path, sha256)
                return path
            except UNREACHABLE as error:
                failures.append(f"{url}: {error}")
    raise ValueError(
        f"{published.file} was not downloaded ({'; '.join(failures)}). Download it elsewhere and put it at "
        f"{path}, or give its path in place of the name"
    )


def download(url: str, path: Path, sha256: str | None = None) -> None:
    """Copy what is behind a URL to `path`, whole or not at all.

    OSError, HTTPException or ValueError when it is out of reach, cut short, a web page, or has another
    SHA-256 than the one that is expected.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "ofa-frontier"})
    with urllib.request.urlopen(request, timeout=SILENT_SECONDS) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise ValueError("the server sent a web page, not the file")
        with disk.replacing(path) as file:
            checksum = _copy(answer, file)
            if answer.length:  # what the server announced and did not send
                raise ValueError(f"the connection ended {answer.length} bytes before the end of the file")
            if sha256 is not None and checksum != sha256:
                raise ValueError(f"what came has the SHA-256 {checksum}, expected {sha256}")


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    """Copy all bytes; returns their SHA-256."""
    seen = hashlib.sha256()
    while chunk := source.read(CHUNK):
        seen.update(chunk)
        target.write(chunk)
    return seen.hexdigest()
