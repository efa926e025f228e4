"""The papers' networks, data sets and training recipes, for the demo, the tests and the benchmarks."""
