"""Names of architectures in tables and lists, and members of fronts by what is asked of them."""

import json

import numpy as np
import pytest

from latency.data import read_csv
from latency.zoo import catalogue
from search import front_table, problem
from search.objective import InfeasibleError
from search.run import Search
from search.searchers.nsga2 import NSGA2
from supernet.files import architectures, tables
from supernet.space import get_space


def test_a_table_names_its_architectures_or_has_their_genes(tmp_path):
    space = get_space("ofa_small")
    genomes = space.sample(5, np.random.default_rng(0))
    names = np.array(space.format(genomes))
    genes = dict(zip((axis.name for axis in space.axes), space.values(genomes).T, strict=True))
    for columns in ({"architecture": names, "top1": np.ones(5)}, {**genes, "architecture": names[::-1]}):
        assert (architectures.genomes(columns, space) == genomes).all()
    with pytest.raises(ValueError, match="holds numbers"):
        architectures.genomes({"architecture": np.arange(3.0)}, space)
    with pytest.raises(ValueError, match="missing"):
        architectures.genomes({"top1": np.arange(3.0)}, space)


def test_networks_of_a_part_of_a_space_are_read_as_of_the_whole(tmp_path):
    part, whole = get_space("compofa_fixed"), get_space("ofa_mbv3_w1.0")
    rng = np.random.default_rng(1)
    some, others = part.sample(3, rng), whole.sample(2, rng)
    names = [*part.format(some), *whole.format(others)]
    expected = np.concatenate([part.embed(some, whole.name), others])
    assert (architectures.parse(names, whole) == expected).all()
    assert architectures.space_of(names) is whole
    assert architectures.space_of(names[:3]) is part
    with pytest.raises(ValueError, match="is of another space than compofa_fixed"):
        architectures.parse(names, part)
    with pytest.raises(ValueError, match="of one space belong together"):
        architectures.space_of(["ofa_small r16", "fbnet x"])


def test_a_table_without_names_needs_a_space():
    with pytest.raises(ValueError, match=r"please give space=\.\.\.: my\.csv has no column architecture"):
        architectures.space_of_rows({"top1": np.ones(2)}, "my.csv")


def test_lists_and_tables_of_names_are_read(tmp_path):
    names = get_space("ofa_small").format(get_space("ofa_small").extremes())
    (tmp_path / "list.txt").write_text("\n".join(["", *names, ""]))
    (tmp_path / "one.csv").write_text("\n".join(["architecture", *names]))
    (tmp_path / "more.csv").write_text("\n".join(["top1,architecture", *(f".5,{name}" for name in names)]))
    for path in tmp_path.iterdir():
        assert architectures.read(path)["architecture"].tolist() == names
    with pytest.raises(ValueError, match="no table"):
        architectures.read(tmp_path / "nothing.csv")


def test_latencies_are_read_by_name(tmp_path):
    target = catalogue.target("titan_rtx_b64")
    space = get_space(target.space)
    genomes = space.sample(4, np.random.default_rng(2))
    rows = zip(space.format(genomes), (1.0, 2.0, "", 4.0), strict=True)
    (tmp_path / "front.csv").write_text(tables.Table.from_rows(["architecture", "ms"], rows).csv())
    data = read_csv(tmp_path / "front.csv", target, "ms")
    assert (data.genomes == genomes[[0, 1, 3]]).all()
    assert data.ms.tolist() == [1, 2, 4]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A finished search with a limit, and its folder."""
    out = tmp_path_factory.mktemp("names") / "run"
    asked = problem.build(["accuracy", "latency_ms"], limits={"params": 8e6})
    return Search(asked, NSGA2(population=50), budget=600, seed=0, out=out).run(), out


def test_members_of_a_front_are_what_their_bounds_say(found):
    result, out = found
    table = result.front.columns
    names, accuracy = table["architecture"], np.array(table["accuracy"])
    latency = result.problem.evaluator.objectives[1]
    bounds = latency.bound(latency.of(result.problem.space.parse(names)))
    limit = float(np.median(bounds))
    expected = names[int(np.argmax(np.where(bounds <= limit, accuracy, 0)))]
    assert front_table.architecture(f"{out}:best@{limit:.6f}1ms") == expected
    assert front_table.architecture(f"{out}:best@{limit:.6f}1ms@{8e6}params") == expected
    assert front_table.architecture(f"{out}:knee") == result.summary["knee"]
    assert front_table.architecture(f"{out}:best") == names[result.front.best]
    floor = f"{out}:best@{np.max(table['accuracy_bound']):.7f}accuracy"
    assert front_table.architecture(floor) == names[int(np.argmax(table["accuracy_bound"]))]
    assert front_table.architecture(names[3]) == names[3]


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("fastest", "unknown member of the front"),
        ("knee@20ms", "unknown member"),
        ("best@20seconds", "unknown limit '20seconds'"),
        ("best@ms", "unknown limit 'ms'"),
        ("best@", "unknown limit ''"),
    ],
)
def test_what_no_front_has_is_refused(found, member, message):
    with pytest.raises(ValueError, match=message):
        front_table.architecture(f"{found[1]}:{member}")


def test_fronts_that_cannot_answer_say_so(found, tmp_path):
    with pytest.raises(InfeasibleError, match=r"no member of the front in .* is within 0\.1ms"):
        front_table.architecture(f"{found[1]}:best@0.1ms")
    with pytest.raises(ValueError, match="holds no finished search"):
        front_table.architecture(f"{tmp_path}:best")


def test_measured_members_are_the_best_of_a_front(found, tmp_path):
    """As the search marks them: a prediction displaces no measurement."""
    result, _ = found
    columns = {**result.front.columns, "on_verified_front": [i == 4 for i in range(len(result.front))]}
    (tmp_path / "front.csv").write_text(tables.Table(columns).csv())
    (tmp_path / "objectives.json").write_text(json.dumps({"accuracy": {"maximize": True}}))
    assert front_table.architecture(f"{tmp_path}:best") == columns["architecture"][4]
