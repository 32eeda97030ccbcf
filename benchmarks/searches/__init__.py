"""What a search saves and finds: warm starts, several devices at once, rounds of measuring. May import the
packages and `benchmarks.command`."""
