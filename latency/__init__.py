"""How long a subnet takes on a target, measured or predicted.

from latency import zoo
zoo.predictor("v100_b64").predict(genomes, zoo.target("v100_b64"))
"""
