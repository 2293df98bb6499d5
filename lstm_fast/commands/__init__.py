"""The commands of `lstm-fast`: a module for each. Its `run(arguments)` returns the exit status."""
