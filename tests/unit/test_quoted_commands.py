"""Every command that README.md and docs/ quote: its words are known, and the Python ones run in a small form.

A newly quoted `python -m benchmarks.X` or `python -m scripts.X` fails here until `SMALL` says how it runs
within seconds.
"""

import importlib
import re
import shlex
import sys
from functools import partial
from pathlib import Path

import pytest

from benchmarks.searches import screenshot
from search import command
from supernet import choices
from supernet.surrogates import accuracy_fit

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON = re.compile(r"python -m ((?:benchmarks|scripts)(?:\.\w+)+)([^`\n;)]*)")
MAKE = re.compile(r'make ([a-z-]+) ARGS="([^"]*)"')
PROTOCOLS = [
    "s1",
    "help_ofa",
    "help_nb201",
    "help_fbnet",
    "nasflat_N2",
    "gpu_loo",
    "gpu_kernels",
    "gpu_networks",
    "nas_note10",
    "maplex_engines maplex_isa maplex_sheets maplex_cells maplex_settings",
    "ten_samples",
    "phones",
    "few_figures",
]

# {a command without options and placeholders: the words of its small forms}; FOLDER is of `make train`, DATA
# that of the public tables
SMALL = {
    "benchmarks.claims": [""],
    "benchmarks.efficiency selection": ["selection seeds=1 budget=60"],
    "benchmarks.efficiency findings spreads": ["findings spreads draws=20"],
    "benchmarks.fronts": ["targets=[v100_b64] seeds=1 budget=600 random=50 out=OUT"],
    **{f"benchmarks.latency_tables {name}": [f"{name} small=1 out=OUT"] for name in PROTOCOLS},
    "benchmarks.linas imagenet": [
        "imagenet seeds=1 budget=50 only=linas,nsga2-20,random out=OUT/linas.json",
        "imagenet seeds=1 budget=50 only=optuna-tpe,optuna-nsga2 out=OUT/linas.json",
        "imagenet seeds=1 budget=50 only=botorch out=OUT/linas.json",
    ],
    "benchmarks.linas run test": ["run FOLDER --part test seeds=1 budget=8 out=OUT/linas.json"],
    "benchmarks.measure_devices": [""],  # measures nothing where every device is there
    "benchmarks.module_tables": [
        "modules networks load speed engine=onnxruntime rows=60 models=ridge,svr subnets=100 out=OUT",
        "intervals engine=onnxruntime rows=60 models=ridge out=OUT",
    ],
    "benchmarks.module_tables load": [],  # runs with the other parts
    "benchmarks.module_tables networks": [],  # likewise
    "benchmarks.module_tables intervals": [],
    "benchmarks.module_tables modules": [],
    "benchmarks.ofa_search": [
        "seeds=1 budget=400 generations=1 out=OUT/ofa.json",
        "seeds=1 budget=400 generations=0 --tables DATA/lut_i7_8700k_ofa_mbv3.csv.gz out=OUT/ofa.json",
    ],
    "benchmarks.predictors": ["only=titan_rtx_b1 out=OUT/predictors.json"],
    "benchmarks.searches.screenshot": ["budget=300 out=OUT/front.png"],
    "benchmarks.searches.rounds": ["targets=titan_rtx_b64 seeds=1 budget=600 rounds=2 out=OUT"],
    "benchmarks.searches.reuse warm": ["warm seeds=1 budget=600"],
    "benchmarks.searches.reuse devices": ["devices seeds=1 budget=600"],
    "benchmarks.shrink": [],  # its parts are quoted one by one
    "benchmarks.shrink peak": ["peak nets=1 out=OUT"],
    "benchmarks.shrink joint": ["joint seeds=1 budget=200 out=OUT"],
    "benchmarks.shrink int8": ["int8 supernet=FOLDER aware=0 seeds=1 members=1 candidates=4 out=OUT"],
    "benchmarks.shrink table": ["table supernet=FOLDER epochs=1 seeds=1 out=OUT"],
    "benchmarks.speed": ["subnets=1000 budget=300 repetitions=1"],
    "benchmarks.supernet augmentation": ["augmentation seeds=1"],
    "benchmarks.supernet finetune": [],  # tests/unit/test_finetune_table.py
    "benchmarks.supernet digits": ["digits seeds=1 epochs=2 out=OUT"],
    "benchmarks.vision_transformer": ["epochs=2 subnets=3 train_images=128 out=OUT"],
    "scripts.fit_accuracy": [""],
    "scripts.fit_training_cost": [""],
    "scripts.fit_zoo": ["titan_rtx_b1"],
    "scripts.fit_zoo pixel1 note8 lg_g8": ["pixel1"],
}
MORE = {  # what three dots stand for, as far as a command cannot do without
    "accuracy-data": ["supernet=runs/net"],
    "fit": ["space=ofa_mbv3_w1.0", "rows=my.csv", "column=lat_ms"],
}
SHIPPED = {  # scripts start their command when they are imported; a small form calls the command itself
    "scripts.fit_accuracy": "search.commands.shipped.accuracy",
    "scripts.fit_training_cost": "search.commands.shipped.training_cost",
    "scripts.fit_zoo": "search.commands.shipped.zoo",
}
SET = {  # what the commands that make shipped files write to, and sizes that have no option
    "scripts.fit_accuracy": [
        ("supernet.surrogates.accuracy.FITTED", "OUT"),
        ("supernet.surrogates.accuracy_fit.RELEASED_ROWS", 2000),
        ("supernet.surrogates.accuracy_fit.fit", partial(accuracy_fit.fit, max_iterations=2)),
        ("search.commands.shipped.accuracy.SEEDS", 1),
        ("search.commands.shipped.accuracy.TRAIN", 100),
        ("search.commands.shipped.accuracy.EVALUATIONS", 5000),
    ],
    "scripts.fit_training_cost": [("supernet.surrogates.training_cost.FITTED", "OUT/training_cost.json")],
    "scripts.fit_zoo": [("latency.zoo.catalogue.FOLDER", "OUT")],
}
SLOW = (
    "botorch",
    "findings",
    "selection",
    "modules",
    "int8",
    "table ",
    "peak",
    "digits",
    "vision_transformer",
    "fit_",
    "predictors",
    *PROTOCOLS,
)


def quoted(pattern):
    """Every match in the pages, in their order, once."""
    return list(dict.fromkeys(match for page in PAGES for match in pattern.findall(page.read_text())))


def name_of(module, rest):
    """The command without options and placeholders."""
    rest = re.sub(r"\[[^\]]*\]", "", rest)  # what is optional
    return " ".join([module, *(word for word in rest.split() if re.fullmatch(r"[a-z]\w*", word))])


def small_forms():
    for name, forms in SMALL.items():
        for words in forms:
            slow = any(word in f"{name} {words}" for word in SLOW)
            yield pytest.param(name.split()[0], words, marks=[pytest.mark.slow] if slow else [])


def test_every_quoted_command_has_a_small_form():
    names = {name_of(module, rest) for module, rest in quoted(PYTHON)}
    assert names == set(SMALL)


@pytest.mark.filterwarnings("ignore")  # of the exporters, and of statistics of a single run
@pytest.mark.parametrize(("module", "words"), [*small_forms()])
def test_small_form_runs(module, words, data, request, tmp_path, monkeypatch, capsys):
    folder = request.getfixturevalue("trained_folder") if "FOLDER" in words else None
    if module == "benchmarks.searches.screenshot" and screenshot.CHROMIUM is None:
        pytest.skip("no chromium here; Debian: apt-get install chromium")
    for package, word in {"botorch": "botorch", "optuna": "optuna", "timm": "gpu_networks"}.items():
        if word in words:
            pytest.importorskip(package, reason='pip install "ofa-frontier[peers]"')
    words = words.replace("FOLDER", str(folder)).replace("OUT", str(tmp_path)).replace("DATA", str(data))
    for name, value in SET.get(module, ()):
        monkeypatch.setattr(
            name, Path(value.replace("OUT", str(tmp_path))) if isinstance(value, str) else value
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [module, *words.split()])
    importlib.import_module(SHIPPED.get(module, module)).main()
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(("name", "words"), quoted(MAKE))
def test_words_of_make_commands_mean_something(name, words, monkeypatch):
    """They compose; of a sweep (`-m`) the first job, with `--config-dir` as if typed in the checkout."""
    asked = [word for word in shlex.split(words.replace("\\\n", " ")) if word not in ("...", "-m")]
    if folders := choices.folders_of(asked):
        monkeypatch.setattr(sys, "path", sys.path[:])
        choices.use_folders(*(ROOT / folder for folder in folders))
        asked = [word for word in asked if word not in ("--config-dir", *folders)]
    if "-m" in words.split():
        asked = [re.sub(r"=([^\[,]+),.*", r"=\1", word) for word in asked]
    try:
        assert command.compose(name.replace("-", "_"), asked + (MORE.get(name, []) if "..." in words else []))
    finally:
        choices.use_folders()
