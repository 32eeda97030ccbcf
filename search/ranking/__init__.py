"""The random Pareto frontier over any table of models. May import search's top floor."""
