"""How a framework runs a function and differentiates it: one module per Keras backend, with the same names in each.

MODES: the ways in which it runs Keras layers. Keras's layers, for comparison, run in the first one.
OWN_RANDOM: modes in which the same seed gives other random numbers than in the other modes.
EVERY: if cases take long, only every EVERY-th is solved by Keras's LSTM, too, or in the modes after the first.
REACHED: dtypes whose precision Keras's LSTM does not reach, and the dtype whose precision it reaches.
precision(dtype): a context in which arrays of this dtype exist.
run(call, inputs, variables, states, seeds, mode): the outputs of `call(*inputs)`, flattened, and, unless `seeds` is
None, the gradients by the floating-point inputs and by the variables. `seeds(output)` is the incoming gradient of an
output. `states` are variables that the call may change.
"""
