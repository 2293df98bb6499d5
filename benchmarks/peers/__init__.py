"""One module per framework. Each has `prepare(problem, training, ...)`, which returns a `Prepared`.

Those that begin with gpu_ also take a precision and a device, and their steps return when everything is on its way; the
steps of the others return when everything has been computed, or their clocks wait for it.
"""
