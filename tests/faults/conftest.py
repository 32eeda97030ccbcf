"""What the tests of faults share: inputs, and what each command leaves without a fault."""

import shutil
from functools import cache

import pytest

from tests.faults.commands import WRITING, prepare
from tests.faults.injection import Fault, injected


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    prepare(folder)
    return folder


@pytest.fixture(scope="session")
def unbroken(inputs, tmp_path_factory):
    """`unbroken(name)`: what a command leaves without a fault, and what it changes on the way."""

    @cache
    def run(name):
        folder = tmp_path_factory.mktemp("unbroken") / "here"
        shutil.copytree(inputs, folder)
        fault = Fault()
        with injected(fault):
            code, error = WRITING[name].run(folder)
        assert code == 0, error
        return WRITING[name].left(folder), fault

    return run
