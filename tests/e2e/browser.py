"""Pages in a headless Chromium, several in one start: each in a frame of its own size, from file://."""

import base64
import gzip
import html
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.searches.screenshot import CHROMIUM, FLAGS

PAGES = Path(__file__).parent / "pages"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; Debian: apt install chromium")
SHOWN = ["--window-size=1500,2000", "--virtual-time-budget=15000"]
CATCH = (PAGES / "catch.html").read_text()
PROBE = (PAGES / "probe.html").read_text()
OUTER = (PAGES / "frames.html").read_text()


@dataclass(frozen=True)
class Visit:
    """A page, as HTML text, in a window of a size, and a script whose answer is wanted."""

    page: str
    width: int
    height: int
    script: str = "return {};"


def filled(template, body, number):
    return template.replace("@@NUMBER@@", str(number)).replace("@@BODY@@", body)


def visit(folder, *visits):
    """What each page answered: {answer, problems, overflow, clipped, links}."""
    frames = []
    for i, one in enumerate(visits):
        probed = one.page.replace("<head>", "<head>" + CATCH, 1).replace(
            "</body>", filled(PROBE, one.script, i)
        )
        (folder / f"frame{i}.html").write_text(probed)
        style = f"width:{one.width}px;height:{one.height}px;border:0"
        frames.append(f"<iframe src='frame{i}.html' style='{style}'></iframe>")
    (folder / "outer.html").write_text(filled(OUTER, "".join(frames), len(visits)))
    words = [CHROMIUM, *FLAGS, *SHOWN, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    dumped = subprocess.run(
        [*words, (folder / "outer.html").as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    return json.loads(html.unescape(dumped.stdout.split('<pre id="result">')[1].split("</pre>")[0]))


def drawn(page):
    """The data that the script of a page draws."""
    packed = page.split('type="application/gzip">')[1].split("</script>")[0]
    return json.loads(gzip.decompress(base64.b64decode(packed)))
