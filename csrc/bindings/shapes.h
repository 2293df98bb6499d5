// The shapes of a call's arrays, as lstm_fast/lstm.h and cuda/recurrence.h state them, for the problem of either. Every
// binding checks what it is given, and makes what it returns, by these.
#ifndef LSTM_FAST_BINDINGS_SHAPES_H_
#define LSTM_FAST_BINDINGS_SHAPES_H_

#include "bindings/array.h"

namespace lstm_fast {

template <class Problem>
Shape MaskShape(const Problem& p) {
  return {{p.batch, p.time}, "batch, time"};
}

// y, and its gradient.
template <class Problem>
Shape OutputShape(const Problem& p) {
  return {{p.batch, p.return_sequences ? p.time : 1, p.directions * p.units}, "batch, time or 1, directions * units"};
}

// Of one direction, and the same for gradients: h0, c0, h_n or c_n,
template <class Problem>
Shape StateShape(const Problem& p) {
  return {{p.batch, p.units}, "batch, units"};
}
// a recurrent kernel,
template <class Problem>
Shape RecurrentKernelShape(const Problem& p) {
  return {{p.units, 4 * p.units}, "units, 4 * units"};
}
// a bias,
template <class Problem>
Shape BiasShape(const Problem& p) {
  return {{4 * p.units}, "4 * units"};
}
// and multipliers of h.
template <class Problem>
Shape RecurrentDropoutShape(const Problem& p) {
  return {{4, p.batch, p.units}, "gates, batch, units"};
}

// What only the layer has: x and its gradient,
template <class Problem>
Shape InputShape(const Problem& p) {
  return {{p.batch, p.time, p.input}, "batch, time, features"};
}
// a kernel and its gradient,
template <class Problem>
Shape KernelShape(const Problem& p) {
  return {{p.input, 4 * p.units}, "features, 4 * units"};
}
// and multipliers of x.
template <class Problem>
Shape InputDropoutShape(const Problem& p) {
  return {{4, p.batch, p.input}, "gates, batch, features"};
}

// What only the recurrence has, with an axis for the directions: z and its gradient, and h before each timestep.
template <class Problem>
Shape ProjectedShape(const Problem& p) {
  return {{p.batch, p.time, p.directions, 4 * p.units}, "batch, time, directions, 4 * units"};
}
template <class Problem>
Shape PreviousStateShape(const Problem& p) {
  return {{p.batch, p.time, p.directions, p.units}, "batch, time, directions, units"};
}

}  // namespace lstm_fast

#endif  // LSTM_FAST_BINDINGS_SHAPES_H_
