"""What a search saves and finds: warm starts, several devices at once, rounds of measuring; BoTorch and
Optuna as searchers. May import the packages and `benchmarks.command`."""
