"""Speed of the layers beside Keras's own (pytest-benchmark), and a report of the results."""

BASELINE = "Keras graph"  # the contender that the others are compared with
