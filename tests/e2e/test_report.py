"""The report in a real browser: headless Chromium, from file://."""

import html
import json
import re
import shutil
import subprocess

import pytest

from search import problem
from search.run import Search
from search.searchers.nsga2 import NSGA2

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PROBE = """
<script>
window.addEventListener("load", () => setTimeout(() => {
  const first = () => document.querySelector("table.front tbody tr td").textContent;
  const all = selector => [...document.querySelectorAll(selector)];
  const header = name => all("table.front th").find(cell => cell.textContent === name);
  const cells = name => {
    const j = header(name).cellIndex;
    return all("table.front tbody tr").map(row => Number(row.children[j].textContent));
  };
  header("latency_ms").click();
  const up = cells("latency_ms");
  header("latency_ms").click();
  const down = cells("latency_ms");
  const filter = document.getElementById("filter");
  filter.value = "ft75";
  filter.dispatchEvent(new Event("input"));
  const kept = all("table.front tbody tr").map(row => row.children[0].textContent);
  const result = {
    errors: window.problems, up, down, kept, first: first(),
    points: all(".plot").map(box => box.querySelectorAll(".point, .js-line").length),
    widths: all(".plot").map(box => [box.querySelector("svg").clientWidth, box.offsetWidth]),
  };
  document.body.innerHTML = "<pre id=result></pre>";
  document.getElementById("result").textContent = JSON.stringify(result);
}, 1500));
</script>
"""
CATCH = """<script>
window.problems = [];
window.addEventListener("error", event => window.problems.push(String(event.message)));
for (const kind of ["error", "warn"]) console[kind] = (...words) => window.problems.push(words.join(" "));
</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "run"
    objectives = ["accuracy", "latency_ms", "training_hours"]
    asked = problem.build(objectives, limits={"latency_ms": 25.0})
    evil = {"note": "</script><script>window.problems.push('escaped')</script><b>bold</b>"}
    Search(asked, NSGA2(population=50), budget=1500, seed=0, out=out, config=evil).run()
    return out / "report.html"


def test_report_is_self_contained(report):
    text = report.read_text()
    assert "<script src" not in text
    assert '<link rel="stylesheet' not in text
    assert "@@" not in text.split("<body>")[1]
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert not re.search(r"\{(models|spec|cost|target)\b", text.split("<body>")[1])


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; Debian: apt-get install chromium")
def test_report_in_a_browser(report, tmp_path):
    text = report.read_text().replace("<head>", "<head>" + CATCH, 1).replace("</body>", PROBE + "</body>")
    page = tmp_path / "probe.html"
    page.write_text(text)
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1300,2600",
        "--virtual-time-budget=8000",
    ]
    dumped = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = json.loads(html.unescape(dumped.stdout.split('<pre id="result">')[1].split("</pre>")[0]))
    assert found["errors"] == []
    assert found["up"] == sorted(found["up"])
    assert found["down"] == sorted(found["down"], reverse=True)
    assert found["up"] != found["down"]
    assert found["kept"]
    assert all(name.endswith("ft75") for name in found["kept"])
    assert len(found["points"]) == 4
    assert all(count > 20 for count in found["points"][:3])
    assert all(drawn <= box for drawn, box in found["widths"]), found["widths"]
