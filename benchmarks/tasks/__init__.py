"""Task files of the benchmarks, for `summands search` and `summands compress`."""
