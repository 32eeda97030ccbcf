"""The picture of the README, of the default report: `python -m benchmarks.searches.screenshot`.

Needs Chromium. Twenty is typed into the limit box, as a reader would.
"""

import shutil
import subprocess
import tempfile
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command import words
from search import search

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --hide-scrollbars
""".split()  # noqa: SIM905
TYPED = """<script>
const timer = setInterval(() => {
  if (document.documentElement.dataset.ready !== "yes") return;
  clearInterval(timer);
  const box = document.getElementById("limit0");
  box.value = "LIMIT";
  box.dispatchEvent(new Event("input"));
}, 50);
</script></body>"""


@dataclass(frozen=True)
class Options:
    """What is photographed, and where the picture goes."""

    out: Path = Path("docs/front.png")
    budget: int = 50_000
    limit: float = 20.0  # ms
    width: int = 1400
    height: int = 800


def main() -> None:
    options = words(Options)[1]
    out = options.out.absolute()
    if CHROMIUM is None:
        raise SystemExit("error: no Chromium here; Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
        search(budget=options.budget, bound=0, out="runs/mine")
        page = Path("runs/mine/report.html").read_text()
        photographed = Path("page.html").absolute()
        photographed.write_text(page.replace("</body>", TYPED.replace("LIMIT", f"{options.limit:g}")))
        size = f"--window-size={options.width},{options.height}"
        profile, picture = f"--user-data-dir={scratch}/profile", f"--screenshot={out}"
        asked = [CHROMIUM, *FLAGS, size, profile, picture, "--virtual-time-budget=6000"]
        subprocess.run([*asked, photographed.as_uri()], check=True, capture_output=True, timeout=120)
    print(f"{out}: {out.stat().st_size:,} bytes, {options.width} x {options.height}")


if __name__ == "__main__":
    main()
