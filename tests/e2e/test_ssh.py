"""A device over ssh, as a user measures on it: with an OpenSSH server of the test's own on a high port."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latency.measuring.store import Store
from latency.zoo import catalogue
from tests.e2e.commands import call

SERVER = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/mine.pub
PidFile {folder}/pid
StrictModes no
PasswordAuthentication no
UsePAM no
PermitRootLogin yes
"""
CLIENT = """
Host *
IdentityFile {folder}/mine
IdentitiesOnly yes
UserKnownHostsFile {folder}/known
StrictHostKeyChecking accept-new
LogLevel ERROR
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of this machine over ssh."""
    if SERVER is None or shutil.which("ssh") is None:
        pytest.skip("no OpenSSH server is installed here (apt-get install openssh-server)")
    folder = tmp_path_factory.mktemp("ssh")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("host", "mine"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "server").write_text(CONFIG.format(port=port, folder=folder))
    (folder / "client").write_text(CLIENT.format(folder=folder))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # the server wants it
    with subprocess.Popen([SERVER, "-D", "-f", folder / "server", "-E", folder / "log"]) as server:
        reach = ["ssh", "-F", folder / "client", "-o", "BatchMode=yes", "-p", str(port), "127.0.0.1", "true"]
        for _ in range(50):
            if subprocess.run(reach, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        else:
            server.terminate()
            pytest.skip(f"the OpenSSH server takes no connection: {(folder / 'log').read_text()[-300:]}")
        options = f"python={sys.executable}&folder={folder}/device&ssh_config={folder}/client"
        yield f"ssh://127.0.0.1:{port}?{options}"
        server.terminate()


@pytest.mark.slow
def test_adapt_over_ssh_prints_what_it_prints_for_here(address, tmp_path):
    words = [f"target={address}", "samples=2", "tests=2", "resolution=160", "out=mine", "store=s.sqlite"]
    code, out, err = call("adapt", *words, cwd=tmp_path)
    assert code == 0, err
    for row in ("transfer, 2 samples", "MACs line, 2 samples", "specification, 0 samples"):
        assert row in out
    quoted = re.escape(address)
    assert re.fullmatch(
        rf"""next: make search ARGS="target='{quoted}' predictor=run:mine latency_limit_ms=[\d.]+\"""",
        out.splitlines()[-1],
    )
    predictor = catalogue.find(f"run:{tmp_path / 'mine'}")
    assert len(predictor.target.unit) == 12
    with Store(tmp_path / "s.sqlite") as store:
        (sitting,) = store.sittings(predictor.target)
    assert sitting.facts["unit"] == predictor.target.unit
    assert "127.0.0.1" not in str(sitting.facts)  # a device is known by what it is

    words = [f"target='{address}'", "predictor=run:mine", "resolution=160", "budget=500", "verify=1"]
    words += ["rounds=1", "wandb=disabled", "out=run", "store=s.sqlite", "latency_limit_ms=1000"]
    code, out, err = call("search", *words, cwd=tmp_path)
    assert code == 0, err
    assert "measured 1 networks of the front in 1 round" in out


def test_a_device_that_does_not_answer_is_one_line(tmp_path):
    if shutil.which("ssh") is None:
        pytest.skip("no ssh here")
    code, _, err = call("measure", "target=ssh://127.0.0.1:1", "store=s.sqlite", cwd=tmp_path)
    assert code == 1
    assert re.fullmatch(r"error: ssh://127.0.0.1:1: .*[Cc]onnection refused\n", err)
