"""Measurements. Each module prints a table and writes `results/NAME.json`; run them by `make bench-NAME`."""
