"""README.md and docs/ are short where they must be, their links lead somewhere and their Python runs."""

import re
from functools import partial
from pathlib import Path

import pytest

import search

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text())]
WIDEST = 120


def named(page):
    return str(page.relative_to(ROOT))


def anchors(page):
    """What a link may name after `#`: the headings, as MkDocs and GitHub spell them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_the_readme_is_a_screen_and_a_half():
    assert len((ROOT / "README.md").read_bytes()) <= 8192


def test_each_promise_of_security_names_its_tests():
    _, kept, _ = re.split(r"^## .*$", (ROOT / "SECURITY.md").read_text(), flags=re.MULTILINE)[1:]
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for promise in kept.split("\n- ")[1:]:
        named_tests = re.findall(r"`(test_\w+)`", promise)
        assert named_tests, promise
        assert [name for name in named_tests if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_lines_are_short_and_links_lead_somewhere(page):
    text = page.read_text()
    assert [line for line in text.splitlines() if len(line) > WIDEST] == []
    for link in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", WITH_CODE, ids=named)
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """The blocks of a page run one after another, in one namespace; searches get a small budget."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.setattr(search, "search", partial(search.search, budget=1000), raising=False)
    namespace = {"__name__": "page"}
    for code in BLOCK.findall(page.read_text()):
        exec(compile(code, str(page), "exec"), namespace)
