"""Names of architectures travel from command to command: no file is edited in between, and what a command
says comes next runs as it stands."""

import re
import shlex
from functools import partial

import pytest

from latency.measuring import session
from latency.measuring.jobs import Rounds
from latency.zoo import catalogue
from search import command
from tests.e2e.commands import call


def following(out):
    """(command, its words) of the last line that a command printed."""
    name, words = re.fullmatch(r'next: make ([\w-]+)(?: ARGS="(.*)")?', out.splitlines()[-1]).groups()
    return name, shlex.split(words or "")


@pytest.mark.slow
def test_a_front_is_measured_fitted_and_searched_in_four_commands(tmp_path, monkeypatch):
    """Of the last three the first two print the next, word for word."""
    monkeypatch.setattr(session, "measure", partial(session.measure, rounds=Rounds(fewest=3, most=3)))
    few = ["budget=500", "objectives=[accuracy,latency_ms]", "resolution=128", "wandb=disabled"]
    code, out, err = call("search", "target=titan_rtx_b64", *few, "out=first", cwd=tmp_path)
    assert code == 0, err
    words = ["names=first/front.csv", "subnets=5", "target.engine=torch_eager", "store=s.sqlite"]
    code, out, err = call("measure", *words, cwd=tmp_path)
    assert code == 0, err
    assert re.search(r"5 of the \d+ architectures of first/front.csv", out)
    name, words = following(out)
    assert (name, words[0]) == ("fit", "target=here")
    code, out, err = call("fit", *words, cwd=tmp_path)
    assert code == 0, err
    name, words = following(out)
    assert name == "search"
    code, out, err = call("search", *words, *few, "verify=0", "out=second", cwd=tmp_path)
    assert code == 0, err
    fitted = catalogue.find(str(tmp_path / words[0].partition("=")[2]))
    assert fitted.target.engine == "torch_eager"
    assert fitted.target.space == "ofa_mbv3_w1.2"  # of the names: target=here has another
    name, words = following(out)
    config = command.compose(name, words)
    assert name == "export"
    assert config["architecture"].startswith("ofa_mbv3_w1.2 r128 ")


def test_a_member_of_a_front_is_exported_by_what_is_asked_of_it(tmp_path):
    words = ["space=compofa_fixed", "target=i7_8700k_lut_w1.0", "budget=300", "wandb=disabled", "out=run"]
    code, out, err = call("search", *words, cwd=tmp_path)
    assert code == 0, err
    words = ["weights=random", "architecture=run:best@30ms", "formats=[state_dict]", "out=phone"]
    code, out, err = call("export", *words, cwd=tmp_path)
    assert code == 0, err
    assert out.startswith("compofa_fixed r")
    name, words = following(out)
    assert command.compose(name, words)["names"] == out.splitlines()[0]
    code, _, err = call("export", "weights=random", "architecture=run:fastest", "out=x", cwd=tmp_path)
    assert code == 1
    assert "unknown member of the front in run 'fastest'" in err
