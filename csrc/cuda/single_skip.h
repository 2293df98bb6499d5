// Timesteps that the kernels of single.h do not compute, in rows without gaps.
//
// Forward: while the input stays the same, bit for bit, a timestep is a fixed function of h and c. So once both are
// what they were kSkipPeriod timesteps before, all that follows repeats these timesteps until the input changes, and is
// copied. What is skipped is a multiple of the period, which leaves the states as they are.
//
// Backward: once the gradients of the states have come to nothing, and as long as those of the outputs are zero, all
// gradients are zero. What is not finite in an earlier state would show: it stays in c or in h from then on, and a
// product of zero with it is NaN.
#ifndef LSTM_FAST_CUDA_SINGLE_SKIP_H_
#define LSTM_FAST_CUDA_SINGLE_SKIP_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/elements.h"

namespace lstm_fast::cuda {

// It is asked once in so many timesteps whether there is something to skip: asking takes a barrier. Other periods than
// its divisors are rare.
constexpr int kSkipPeriod = 16;
// Values that are on their way at the same time.
constexpr int kSkipLoads = 8;

LSTM_FAST_DEVICE bool IsSame(float a, float b) { return BitsOf(a) == BitsOf(b); }

// A gradient that is no normal number counts as nothing, as on processors that flush these to zero. NaN does not.
LSTM_FAST_DEVICE bool IsNothing(float gradient) {
  constexpr float kLeastNormal = 0x1p-126f;
  return gradient < kLeastNormal && gradient > -kLeastNormal;
}

// How many values, `step` apart, are as is(value) says, before the first that is not: a multiple of kSkipLoads, not
// more than `most`.
template <class T, class Is>
LSTM_FAST_DEVICE int CountWhile(Global<const T> at, int64_t step, int most, const Is& is) {
  int count = 0;
  LSTM_FAST_NO_UNROLL
  for (; count + kSkipLoads <= most; count += kSkipLoads) {
    bool all = true;
    LSTM_FAST_UNROLL
    for (int i = 0; i < kSkipLoads; ++i) {
      all = is(ToReal(*at)) && all;
      at += step;
    }
    if (!all) break;
  }
  return count;
}

// Stores what is in the period before `at` once more, until there are `count` further values. One after the other: many
// at once would take registers that the recurrent kernel needs.
template <class T>
LSTM_FAST_DEVICE void Repeat(Global<T> at, int64_t step, int count) {
  LSTM_FAST_NO_UNROLL
  for (int i = 0; i < kSkipPeriod; ++i) {
    Global<T> to = at + i * step;
    const T value = *(to - kSkipPeriod * step);
    LSTM_FAST_NO_UNROLL
    for (int done = 0; done < count; done += kSkipPeriod) {
      *to = value;
      to += kSkipPeriod * step;
    }
  }
}

template <class T>
LSTM_FAST_DEVICE void StoreZeros(Global<T> at, int64_t step, int count) {
  LSTM_FAST_NO_UNROLL
  for (; count > 0; --count) {
    *at = T{};
    at += step;
  }
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_SINGLE_SKIP_H_
