"""Every space: the algebra of genomes, names, tables."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet import footprint, registry
from supernet.space import get_space
from supernet.spaces import ofa_mbv3
from supernet.surrogates.training_cost import TrainingCost

ALL = registry.names("space")
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 40)
few = settings(max_examples=15, deadline=None)


def independent_is_canonical(space, row):
    """Gate by gate, gene by gene: the definition, without the space's own arrays."""
    gates = {gate.axis: gate for gate in space.gates}
    for j, axis in enumerate(space.axes):
        live = j not in gates or row[gates[j].controller] >= gates[j].level
        if not (1 <= row[j] <= len(axis.values) if live else row[j] == 0):
            return False
    return True


@pytest.mark.parametrize("name", ALL)
@few
@given(seed=seeds, n=sizes)
def test_operators_stay_canonical(name, seed, n):
    space, rng = get_space(name), np.random.default_rng(seed)
    a, b = space.sample(n, rng), space.sample(n, rng)
    for batch in (a, space.mutate(a, rng, 0.3), space.crossover(a, b, rng), space.neighbours(a[:1])):
        assert batch.dtype == np.int8
        assert all(independent_is_canonical(space, row) for row in batch.tolist())
        assert space.is_canonical(batch)


@pytest.mark.parametrize("name", ALL)
@few
@given(seed=seeds)
def test_canonical_is_a_projection(name, seed):
    space, rng = get_space(name), np.random.default_rng(seed)
    anything = rng.integers(0, space.levels + 1, size=(20, space.d)).astype(np.int8)
    once = space.canonical(anything)
    assert space.is_canonical(once)
    assert (space.canonical(once) == once).all()


@pytest.mark.parametrize("name", ALL)
@few
@given(seed=seeds, n=sizes)
def test_names_round_trip(name, seed, n):
    space = get_space(name)
    genomes = space.sample(n, np.random.default_rng(seed))
    names = space.format(genomes)
    assert (space.parse(names) == genomes).all()
    assert len(set(names)) == len(np.unique(genomes, axis=0))
    assert all(line.startswith(name + " ") and "\n" not in line for line in names)


@pytest.mark.parametrize("name", ALL)
@few
@given(seed=seeds, n=sizes)
def test_columns_round_trip_whatever_stands_in_absent_places(name, seed, n):
    space, rng = get_space(name), np.random.default_rng(seed)
    genomes = space.sample(n, rng)
    values = space.values(genomes)
    filler = np.array([axis.values[rng.integers(len(axis.values))] for axis in space.axes])
    columns = {
        axis.name: np.where(genomes[:, j] > 0, values[:, j], filler[j]) for j, axis in enumerate(space.axes)
    }
    assert (space.encode(columns) == genomes).all()


@pytest.mark.parametrize("name", ALL)
@few
@given(seed=seeds)
def test_crossover_takes_every_gene_from_a_parent(name, seed):
    space, rng = get_space(name), np.random.default_rng(seed)
    a, b = space.sample(30, rng), space.sample(30, rng)
    child = space.crossover(a, b, rng)
    assert ((child == a) | (child == b) | (child == 0)).all()
    assert (space.crossover(a, a, rng) == a).all()


@pytest.mark.parametrize("name", ALL)
def test_mutation_rate_bounds(name, rng):
    space = get_space(name)
    genomes = space.sample(50, rng)
    assert (space.mutate(genomes, rng, 0.0) == genomes).all()
    assert (space.mutate(genomes, rng, 1.0) != genomes).any(axis=1).mean() > 0.9


@pytest.mark.parametrize("name", ALL)
def test_neighbours_differ_in_one_decision(name, rng):
    space = get_space(name)
    genome = space.sample(1, rng)
    around = space.neighbours(genome)
    assert len(np.unique(around, axis=0)) == len(around)
    both_live = (around > 0) & (genome > 0)
    assert (((around != genome) & both_live).sum(axis=1) == 1).all()


@pytest.mark.parametrize("name", ALL)
def test_one_hot_has_one_column_per_live_gene(name, rng):
    space = get_space(name)
    genomes = space.sample(20, rng)
    hot = space.one_hot(genomes)
    assert hot.shape == (20, space.one_hot_width)
    assert (hot.sum(axis=1) == (genomes > 0).sum(axis=1)).all()
    assert len(np.unique(hot, axis=0)) == len(np.unique(genomes, axis=0))


@pytest.mark.parametrize("name", ALL)
def test_footprint_tables_equal_the_layers(name, rng):
    space = get_space(name)
    genomes = space.sample(300, rng)
    table = space.layers(genomes)
    assert (footprint.compute(space, genomes, "macs") == table.macs()).all()
    assert (footprint.compute(space, genomes, "params") == table.params()).all()
    assert (
        footprint.compute(space, genomes, "activations") * 4 == 4 * table.layer_activations().sum(axis=1)
    ).all()
    assert (footprint.compute(space, genomes, "peak_bytes") == table.peak_bytes()).all()


@pytest.mark.parametrize("name", ["compofa_fixed", "nasbench201"])
def test_count_equals_what_can_be_listed(name):
    space = get_space(name)
    listed = space.enumerate()
    assert len(listed) == space.count()
    assert len(np.unique(listed, axis=0)) == len(listed)
    assert space.is_canonical(listed)


def test_count_of_ofa_is_the_published_one():
    """Cai et al. (2020): ((3x3)^2 + (3x3)^3 + (3x3)^4)^5 subnets, about 2 x 10^19."""
    space = get_space("ofa_mbv3_w1.0")
    assert space.count() == (9**2 + 9**3 + 9**4) ** 5 * 25 * 3


def test_restriction_limits_sampling_and_keeps_genomes(rng):
    space = get_space("ofa_mbv3_w1.0")
    narrow = space.restrict("r", 160, 192)
    r = narrow.column(narrow.mutate(narrow.sample(500, rng), rng, 0.5), "r")
    assert set(r) == set(range(160, 193, 4))
    outside = space.sample(50, rng)
    assert (narrow.canonical(outside) == outside).all()
    assert narrow.count() * 25 == space.count() * 9
    with pytest.raises(ValueError, match="no value of r in"):
        space.restrict("r", 10, 20)


@pytest.mark.parametrize("name", registry.names("space"))
def test_operators_keep_to_the_values_of_genes(name, rng):
    """The first and the last value of each axis, with gaps between them."""
    space = get_space(name)
    kept = space.keep_genes({axis.name: [axis.values[0], axis.values[-1]] for axis in space.axes})
    a, b = kept.sample(200, rng), kept.sample(200, rng)
    offspring = (
        a,
        kept.mutate(a, rng, 0.5),
        kept.crossover(a, b, rng),
        kept.extremes(),
        kept.neighbours(a[:1]),
    )
    for genomes in offspring:
        kept.check(genomes)
        for axis in kept.axes:
            assert set(kept.column(genomes, axis.name)) <= {0, axis.values[0], axis.values[-1]}
    assert kept.neighbours(a[:1]).shape[0] >= (a[:1] > 0).sum() - 1


def test_genes_are_kept_by_group_and_by_name(rng):
    """The number of networks with depths 1 and 3 of a small space, counted by listing what is drawn."""
    space = get_space("ofa_small")
    kept = space.keep_genes(
        {
            "depth": [1, 3],
            "kernel": [3],
            "expand": [2],
            "ks1": [3],
            "e8": [2],
            "r": [16, 64],
            "finetune_epochs": [0],
        }
    )
    assert len(np.unique(kept.sample(3000, rng), axis=0)) == kept.count() == 2**3 * 2
    assert kept.allowed("d1") == (1, 3)
    wider = space.keep_genes({"kernel": [5], "depth": [2, 3]})
    assert set(np.unique(wider.column(wider.sample(100, rng), "ks8"))) == {0, 5}
    deeper = wider.neighbours(wider.extremes()[:1])
    assert set(np.unique(deeper[:, [j for j, axis in enumerate(space.axes) if axis.letter == "k"]])) == {0, 2}


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({"kernl": [3]}, "unknown gene of ofa_resnet50 'kernl'.*Known: resolution, depth, width, expand"),
        ({"depth": [3]}, r"genes.depth=\[3\] of ofa_resnet50 must be some of 0, 1, 2"),
        ({"depth": [1]}, r"d0=\[1\] of ofa_resnet50 must be some of 0, 2"),
        ({"e0": []}, r"genes.e0=\[\] of ofa_resnet50 must be some of 20, 25, 35"),
    ],
)
def test_unknown_genes_and_values_are_named(genes, message):
    with pytest.raises(ValueError, match=message):
        get_space("ofa_resnet50").keep_genes(genes)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ofa_mbv3_w1.0 r192", "more words"),
        ("ofa_mbv3_w1.2 r192 d2-2-2-2-2 k33-33-33-33-33 e33-33-33-33-33 ft0", "expected ofa_mbv3_w1.0"),
        ("ofa_mbv3_w1.0 r190 d2-2-2-2-2 k33-33-33-33-33 e33-33-33-33-33 ft0", "r is one of"),
        ("ofa_mbv3_w1.0 r192 d3-2-2-2-2 k33-33-33-33-33 e33-33-33-33-33 ft0", "depths"),
        ("ofa_mbv3_w1.0 r192 d2-2-2-2-2 k34-33-33-33-33 e33-33-33-33-33 ft0", "'4'"),
        ("ofa_mbv3_w1.0 r192 d2-2-2-2-2 k33333-33-33-33-33 e33-33-33-33-33 ft0", "more than 4"),
    ],
)
def test_bad_names_say_what_is_wrong(name, reason):
    with pytest.raises(ValueError, match=reason):
        get_space("ofa_mbv3_w1.0").parse([name])


def test_bad_columns_say_what_is_wrong(rng):
    space = get_space("ofa_mbv3_w1.0")
    genomes = space.sample(3, rng)
    columns = {axis.name: space.column(genomes, axis.name) for axis in space.axes}
    with pytest.raises(ValueError, match="missing: ks3"):
        space.encode({key: value for key, value in columns.items() if key != "ks3"})
    with pytest.raises(ValueError, match="r=190 in row 1"):
        space.encode({**columns, "r": np.array([192, 190, 192])})
    with pytest.raises(ValueError, match="column r holds text"):
        space.encode({**columns, "r": np.array(["192", "?", "192"])})
    with pytest.raises(ValueError, match="not canonical"):
        space.check(genomes.astype(np.int64))


def test_spaces_outside_the_registry_have_a_footprint(rng):
    """Same name, other layers: the tables of the registered space must not be used."""
    other = ofa_mbv3.space("ofa_mbv3_w1.0", 1.2)
    genomes = other.sample(20, rng)
    wide = get_space("ofa_mbv3_w1.2")
    assert (footprint.compute(other, genomes, "macs") == wide.layers(genomes).macs()).all()
    cost = TrainingCost()
    assert (cost.hours(other, genomes).mean == cost.hours(wide, genomes).mean).all()


def test_compofa_is_part_of_ofa(rng):
    space, parent = get_space("compofa_elastic"), get_space("ofa_mbv3_w1.0")
    genomes = space.sample(50, rng)
    inside = space.embed(genomes, "ofa_mbv3_w1.0")
    assert parent.is_canonical(inside)
    assert (parent.layers(inside).macs() == space.layers(genomes).macs()).all()
    depth, expand = parent.column(inside, "d2"), parent.column(inside, "e8")
    assert {(int(d), int(e)) for d, e in zip(depth, expand, strict=True)} <= {(2, 3), (3, 4), (4, 6)}
    with pytest.raises(ValueError, match="not part of"):
        space.embed(genomes, "ofa_mbv3_w1.2")


def test_unknown_space_offers_the_nearest():
    with pytest.raises(ValueError, match=r"Did you mean 'ofa_mbv3_w1.0'\?"):
        get_space("ofa_mbv3_w10")
