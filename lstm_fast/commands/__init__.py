"""What `lstm-fast` does: a module for each of its commands, whose `run(arguments)` returns the exit status."""
