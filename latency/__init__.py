"""How long a subnet takes on a target, measured or predicted. May import `supernet`.

from latency.zoo import catalogue
catalogue.predictor("v100_b64").predict(genomes, catalogue.target("v100_b64"))
"""
