"""What an architecture is, what it costs on paper, and the weights behind it.

May import nothing of `latency` and `search`.

from supernet.space import get_space
space = get_space("ofa_mbv3_w1.0")
genomes = space.sample(1000, np.random.default_rng(0))
space.format(genomes[:1]), space.layers(genomes).macs()
"""
