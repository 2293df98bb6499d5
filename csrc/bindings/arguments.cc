#include "bindings/arguments.h"

#include <cstddef>
#include <string>

#include "bindings/shapes.h"
#include "lstm_fast/isa.h"
#include "lstm_fast/parallel.h"
#include "lstm_fast/workspace.h"

namespace lstm_fast {

Inputs Check(const Arguments& a) {
  // Bad settings in the environment are reported here, before any work is done.
  static_cast<void>(ActiveIsa());
  static_cast<void>(ThreadCount());
  static_cast<void>(KeptBytesLimit());

  Inputs inputs{};
  if (!a.x.present || a.x.rank != 3) Refuse("x", "rank 3 (batch, time, features)", Found(a.x));
  const int64_t batch = a.x.shape[0], time = a.x.shape[1], input = a.x.shape[2];
  if (time > INT32_MAX) Refuse("x", "fewer than 2^31 timesteps", std::to_string(time));
  const Array& recurrent = a.recurrent_kernels[0];
  if (!recurrent.present || recurrent.rank != 2 || recurrent.shape[0] < 1) {
    Refuse("recurrent_kernels[0]", "shape [units, 4 * units]", Found(recurrent));
  }
  const int64_t units = recurrent.shape[0];
  if (a.reserve_mode < 0 || a.reserve_mode > 2) {
    Refuse("reserve_mode", "0 (none), 1 (gates) or 2 (recompute)", std::to_string(a.reserve_mode));
  }
  if (a.directions == 2 && a.go_backwards) Refuse("go_backwards", "false with two directions", "true");
  const bool projected = !a.kernels[0].present;
  if (projected) {
    const Shape shape = {{batch, time, a.directions * 4 * units},
                         "batch, time, directions * 4 * units, as there are no kernels"};
    CheckShape(a.x, "x", shape, false);
  }

  inputs.problem = {a.dtype,
                    batch,
                    time,
                    input,
                    units,
                    a.directions,
                    projected,
                    a.go_backwards,
                    a.return_sequences,
                    a.zero_output_for_mask,
                    static_cast<Reserve>(a.reserve_mode),
                    a.reserve_by_row};
  const Problem& p = inputs.problem;
  inputs.x = a.x.data;
  inputs.x_batch_stride = time * input;
  inputs.x_time_stride = input;
  inputs.mask = static_cast<const MaskByte*>(CheckShape(a.mask, "mask", MaskShape(p), true));
  for (int n = 0; n < a.directions; ++n) {
    const size_t i = static_cast<size_t>(n);
    DirectionInput& d = inputs.direction[n];
    d.recurrent_kernel =
        CheckShape(a.recurrent_kernels[i], Name("recurrent_kernels", n), RecurrentKernelShape(p), false);
    if (projected) {
      CheckAbsent(a.kernels[i], Name("kernels", n));
      CheckAbsent(a.input_dropout[i], Name("input_dropout", n));
    } else {
      d.kernel = CheckShape(a.kernels[i], Name("kernels", n), KernelShape(p), false);
      d.input_dropout = CheckShape(a.input_dropout[i], Name("input_dropout", n), InputDropoutShape(p), true);
    }
    d.bias = CheckShape(a.biases[i], Name("biases", n), BiasShape(p), true);
    d.h0 = CheckShape(a.h0[i], Name("h0", n), StateShape(p), true);
    d.c0 = CheckShape(a.c0[i], Name("c0", n), StateShape(p), true);
    d.recurrent_dropout =
        CheckShape(a.recurrent_dropout[i], Name("recurrent_dropout", n), RecurrentDropoutShape(p), true);
  }
  return inputs;
}

BackwardInput Check(const Inputs& inputs, const GradientArguments& gradient) {
  const Problem& p = inputs.problem;
  BackwardInput checked{};
  const Shape reserve = {{ReserveBytes(p, inputs.mask)}, "bytes that forward() returned"};
  checked.reserve = CheckShape(gradient.reserve, "reserve", reserve, false);
  checked.dy = CheckShape(gradient.dy, "dy", OutputShape(p), true);
  for (int n = 0; n < p.directions; ++n) {
    const size_t i = static_cast<size_t>(n);
    checked.dh_n[n] = CheckShape(gradient.dh_n[i], Name("dh_n", n), StateShape(p), true);
    checked.dc_n[n] = CheckShape(gradient.dc_n[i], Name("dc_n", n), StateShape(p), true);
  }
  return checked;
}

}  // namespace lstm_fast
