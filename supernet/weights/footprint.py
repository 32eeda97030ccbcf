"""What one network costs, counted on the network itself instead of on its genome."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from supernet.layers import BYTES_FP32
from supernet.weights.live_memory import executor, live_peak_bytes
from supernet.weights.subnet import Subnet


def of_network(subnet: Subnet) -> dict[str, float]:
    """`params`, `macs`, `weight_bytes` (fp32) and `peak_bytes`; also right for pruned networks, which have no
    genome.

    MACs are counted by torch's flop counter; the peak is that of a real run, see `live_memory`.
    """
    image = torch.zeros((1, 3, subnet.side, subnet.side))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        subnet.module(image)
    params = sum(parameter.numel() for parameter in subnet.module.parameters())
    return {
        "params": float(params),
        "macs": counter.get_total_flops() / 2,
        "weight_bytes": float(params * BYTES_FP32),
        "peak_bytes": float(live_peak_bytes(executor(subnet.module), image)),
    }
