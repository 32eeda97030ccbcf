"""The main commands in a network that leads nowhere: they work, and nothing in them asks for a connection."""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.commands import ROOT

COMMANDS = {
    "search": ["target=v100_b64", "budget=300", "out=search"],
    "rank": ["table=search_run", "table.folder=search", "draws=200", "out=rank"],
    "adapt": ["target=here", "target.space=ofa_small", "samples=2", "tests=0", "seconds=20", "out=adapt"],
    "predict": ["model=torchvision:squeezenet1_1", "anchors=2", "seconds=20", "out=predict"],
    "train": ["data=digits", "data.train_images=64", "data.calibration=64", "epochs=2", "out=train"],
}
IMPORTS = """
import time
from supernet import extras
extras.quiet()
for name in ("onnxruntime", "openvino"):
    try:
        __import__(name)
    except ImportError:
        pass
time.sleep(16)  # until ONNX Runtime has sent its first report
"""


def asked():
    """Connections that the kernel was asked for and had no way for, and datagrams (names that a resolver on
    this machine was asked for)."""
    counts = {}
    for file in ("snmp", "snmp6"):
        lines = [line.split() for line in Path("/proc/self/net", file).read_text().splitlines()]
        if file == "snmp6":
            counts |= {line[0]: int(line[1]) for line in lines}
            continue
        for (kind, *heads), (_, *values) in zip(lines[::2], lines[1::2], strict=True):
            counts |= {kind + head: int(value) for head, value in zip(heads, values, strict=True)}
    names = ("Ip:OutNoRoutes", "Udp:OutDatagrams", "Ip6OutNoRoutes", "Udp6OutDatagrams")
    return sum(counts.get(name, 0) for name in names)


def inside(folder):
    """In the network of its own: what each command gives, and how often it asked for a connection."""
    with socket.socket() as one:  # the loop that processes of this machine talk over
        fcntl.ioctl(one, 0x8914, struct.pack("16sh", b"lo", 1 | 64))  # SIOCSIFFLAGS: up and running
    runs = {name: ["-m", "search.commands", name, *words] for name, words in COMMANDS.items()}
    for name, words in {"control": ["-c", "import socket\nsocket.getaddrinfo('x.org', 80)"], **runs}.items():
        before = asked()
        done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
        print(name, done.returncode, asked() - before, done.stderr[-300:].replace("\n", " "))
    before = asked()
    subprocess.run([sys.executable, "-c", IMPORTS], cwd=folder, check=True, capture_output=True)
    print("imports", 0, asked() - before)


def can_unshare():
    known = shutil.which("unshare") is not None
    return known and subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_unshare(), reason="networks of one's own (unshare -rn) are not allowed here")
def test_the_main_commands_ask_for_no_connection(tmp_path):
    reported = ("ORT_", "WANDB_", "RAY_")  # what a user's environment may say of reports
    env = {name: value for name, value in os.environ.items() if not name.startswith(reported)}
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, __file__, str(tmp_path)],
        env={**env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = {name: words for name, *words in (line.split(" ", 3) for line in done.stdout.splitlines())}
    control = told.pop("control")
    assert int(control[1]) > 0  # what is counted is seen
    assert set(told) == {*COMMANDS, "imports"}
    assert all(words[:2] == ["0", "0"] for words in told.values()), told


if __name__ == "__main__":
    inside(sys.argv[1])
