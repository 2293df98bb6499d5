"""The user's own benchmark, `lstm-fast bench`. The benchmarks of the source tree stand on the same parts."""
