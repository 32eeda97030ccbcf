"""The examples in the docstrings of what a user calls from Python give what they say."""

import doctest
import importlib

import pytest

MODULES = [
    "latency.zoo.catalogue",
    "search.api",
    "search.archive",
    "search.cli.help",
    "search.cli.listing",
    "search.command",
    "search.front_table",
    "search.shortlist",
    "search.models",
    "search.problem",
    "search.shortlist",
    "supernet.choices",
    "supernet.files.tables",
    "supernet.registry",
    "supernet.space",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_docstring_hold(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
