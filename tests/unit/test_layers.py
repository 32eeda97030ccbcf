"""LayerTable against numbers computed by hand."""

import numpy as np
import pytest

from supernet.layers import LayerBuilder, LayerKind, make_divisible
from supernet.space import get_space


def test_two_layers_by_hand():
    build = LayerBuilder(2, np.array([8, 9]))
    build.add(LayerKind.CONV, 3, 4, kernel=3, stride=2, bias=1)
    build.add(LayerKind.CONV, 4, 4, kernel=5, groups=4, norm=0, live=np.array([True, False]), held=7)
    build.add(LayerKind.GLOBAL_POOL, 4, 4, norm=0)
    build.add(LayerKind.LINEAR, 4, 10, bias=1, norm=0)
    table = build.table()
    # 8 px -> 4 px, 9 px -> 5 px
    assert table.macs().tolist() == [27 * 4 * 16 + 25 * 4 * 16 + 40, 27 * 4 * 25 + 40]
    weights = 27 * 4 + 4 + 8
    assert table.params().tolist() == [weights + 25 * 4 + 50, weights + 50]
    assert (4 * table.layer_activations().sum(axis=1)).tolist() == [4 * (64 + 64 + 10), 4 * (100 + 10)]
    assert table.peak_bytes().tolist() == [4 * (3 * 64 + 64), 4 * (3 * 81 + 100)]


def test_side_branch_does_not_change_the_size():
    build = LayerBuilder(1, np.array([8]))
    build.add(LayerKind.CONV, 4, 2, size=1)
    build.add(LayerKind.CONV, 4, 4, stride=2)
    assert build.table().out_size.tolist() == [[1, 4]]


@pytest.mark.parametrize(
    ("wish", "channels"), [(16, 16), (19.2, 24), (28.8, 32), (11, 16), (3, 8), (134.4, 136)]
)
def test_channels_are_divisible_by_8_and_not_below_90_percent(wish, channels):
    """MobileNet's rule; 19.2 -> 24 and 134.4 -> 136 are the published widths of OFA w1.2."""
    assert int(make_divisible(wish)) == channels


def test_nasbench201_extremes():
    """Dong and Yang (2020): six 3x3 convolutions have 220.12 M multiply-accumulates and 1,531,546
    parameters."""
    space = get_space("nasbench201")
    table = space.layers(space.encode({edge: np.array([3, 0]) for edge in (a.name for a in space.axes)}))
    assert table.macs()[0] == 220_119_680
    assert table.params().tolist() == [1_531_546, 73_306]
