#!/usr/bin/env bash
# Flax: the final carry of a sequence of length 0 is that of its whole padded row.
#
# One would expect: nnx.RNN(cell, return_carry=True) with seq_lengths returns the carry after the last real timestep. A
# row without timesteps has none, so its carry is the initial one.
#
# What happens: Flax computes the row to its end, with the padding, and returns that carry. So the carry depends on the
# padding. linen.RNN does the same. Rows of length 1 and more are right.
#
# The reason: Flax takes the carry at index length - 1. For length 0 this is index -1, which means the last one.
#
# Who meets it: whoever uses the carry of batches that can have an empty row, such as an empty text.
#
# What to do: put the initial carry in its place: jnp.where(seq_lengths[:, None] == 0, initial, carry), for each array
# of the carry.
#
# Versions: flax 0.12.8, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     nnx.RNN: row of length 2: carry after two timesteps True; row of length 0: initial carry False, carry of the whole
#         padded row True, the same with other padding False
#     linen.RNN: row of length 2: carry after two timesteps True; row of length 0: initial carry False, carry of the
#         whole padded row True, the same with other padding False

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flax==0.12.8 jax==0.10.2 numpy==2.4.6
export JAX_PLATFORMS=cpu
"$folder/venv/bin/python" - <<'PY'
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 3)), jnp.float32)
lengths = jnp.array([6, 0, 2])
padding = jnp.arange(6) >= lengths[:, None]
other = jnp.where(padding[..., None], 9 * x, x)
initial = jnp.full((3, 4), 0.25), jnp.full((3, 4), 0.5)
deep = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0)), return_carry=True)
linen = nn.RNN(nn.OptimizedLSTMCell(4), return_carry=True)
weights = linen.init(jax.random.key(0), x)

for name, run in {
    "nnx.RNN": lambda value, **options: deep(value, initial_carry=initial, **options)[0],
    "linen.RNN": lambda value, **options: linen.apply(weights, value, initial_carry=initial, **options)[0],
}.items():
    carry, repadded = run(x, seq_lengths=lengths), run(other, seq_lengths=lengths)
    whole, cut = run(x), run(x[:, :2])

    def same(a, b, row):
        return all(bool(jnp.allclose(p[row], q[row], atol=1e-6)) for p, q in zip(a, b))

    print(
        f"{name}: row of length 2: carry after two timesteps {same(carry, cut, 2)}; row of length 0: initial carry "
        f"{same(carry, initial, 1)}, carry of the whole padded row {same(carry, whole, 1)}, "
        f"the same with other padding {same(carry, repadded, 1)}"
    )
    if not same(carry, cut, 2) or not same(carry, repadded, 2):
        sys.exit("changed: the carry of a row of length 2 is wrong")
    if same(carry, initial, 1) or not same(carry, whole, 1) or same(carry, repadded, 1):
        sys.exit("changed: the carry of a row of length 0 is no longer that of the whole padded row")
PY
