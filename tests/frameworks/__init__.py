"""How a framework runs a function and differentiates it: one module per Keras backend, with the same names in each.

MODES: the ways in which it runs Keras layers; the first one is that of the layers that are compared with.
OWN_RANDOM: modes in which the same seed gives other random numbers than in the rest.
EVERY: where a case takes long, every so many-th is solved by Keras's LSTM too, or in the modes after the first.
REACHED: dtypes in which Keras's LSTM is less precise than they are, and the dtype whose precision it reaches.
precision(dtype): a context in which arrays of this dtype exist.
run(call, inputs, variables, states, seeds, mode): the outputs of `call(*inputs)`, flattened, and, unless `seeds` is
None, the gradients by the floating-point inputs and by the variables. `seeds(output)` is the incoming gradient of an
output. `states` are variables that the call may change.
"""
