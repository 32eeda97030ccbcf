"""What an architecture is, what it costs on paper, how accurate it is.

from supernet import spaces
space = spaces.get("ofa_mbv3_w1.0")
genomes = space.sample(1000, np.random.default_rng(0))
space.format(genomes[:1]), space.layers(genomes).macs()
"""
