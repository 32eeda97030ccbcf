"""HELP's OFA latencies, the whole GPU of each target left out.

HELP trains on 2080ti, titan_xp and v100, and titan_rtx_64 is its target (titan_rtx_1 and _32 its validation);
here each of the four GPUs is left out in turn, so HELP's own split is the rows of titan_rtx. Sources are
fitted on rows 0-2999, samples drawn from them; rows 3500-3999 are reported, with `validation`
rows 3000-3499, where everything was chosen. A further GPU of `test_rows` has all four as sources.
"""

from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.protocols import protocol
from latency.data import LatencyData
from latency.predictors.additive import Additive
from latency.predictors.sources import sources_of
from latency.predictors.transfer import Transfer
from supernet.arrays import Floats, Genomes
from supernet.space import get_space

FITTED = 3000
COUNTS = (3, 5, 10, 20, 50)
PUBLISHED = {  # HELP's checkpoints with 10 samples and 10 references of the target
    ("middle 80%", "titan_rtx_64"): dict(spearman=0.982, mape=3.7, within_10=96.0),
    ("middle 80%", "titan_rtx_32"): dict(spearman=0.981, mape=3.7, within_10=96.0),
    ("middle 80%", "titan_rtx_1"): dict(spearman=0.617, mape=5.3, within_10=81.0),
    ("all", "titan_rtx_64"): dict(mape=5.3),
    ("all", "titan_rtx_32"): dict(mape=5.4),
    ("all", "titan_rtx_1"): dict(mape=6.7),
}


def run(setting: protocol.Setting) -> Iterator[protocol.Row]:
    table, space = protocol.read(setting.data, *protocol.HELP_OFA), get_space(protocol.HELP_OFA[1])
    method = "HELP, 10 samples + 10 references"
    for (part, target), scores in PUBLISHED.items():
        yield protocol.Row("help_ofa", method, target, 20, None, part, scores, published=True)
    how, rows = Additive(validation=(2500, FITTED)), slice(0, FITTED)
    fitted = {name: protocol.source(how, table.data(name, rows)) for name in setting.few(table.columns)}
    zoo = sources_of(space, without=["note10_lut"])
    further = [s for s in zoo if s.target is None or s.target.spec.kind != "gpu"]
    for name in protocol.names_of(setting, table):
        sources = [of for other, of in fitted.items() if protocol.gpu(other) != protocol.gpu(name)] + further
        for seed, rng in setting.draws():
            parts = protocol.split(setting, table, name, rows, protocol.help_rows(setting), seed)
            for n in (10,) if setting.small else COUNTS:
                samples = parts.draw(n, rng)
                ways = {"transfer": protocol.fitting(Transfer().fit_from, sources, samples)}
                if n in (10, 50):
                    ways |= protocol.simple(sources, samples)
                    ways["from scratch (additive ridge)"] = partial(_scratch, samples)
                row = protocol.Row("help_ofa", "", name, n, seed, "all", {})
                yield from protocol.compare(row, ways, parts.test, protocol.PARTS)


def _scratch(samples: LatencyData) -> Callable[[Genomes], Floats]:
    """An additive fit of the samples alone, beyond the resolutions they have too."""
    return partial(Additive(ridge=0.1).fit(samples).table.evaluate, get_space(samples.target.space))
