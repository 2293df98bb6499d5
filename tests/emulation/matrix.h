// The matrix products of a warp, as PTX lays out their operands among its lanes.
#ifndef LSTM_FAST_TESTS_EMULATION_MATRIX_H_
#define LSTM_FAST_TESTS_EMULATION_MATRIX_H_

#include <cstdint>

#include "machine.h"

namespace lstm_fast::emulation {

struct Operands {
  float (&d)[4];
  const uint32_t (&a)[4];
  const uint32_t (&b)[2];
};

// d += a b, called by all lanes; `site` as for barriers. Sums are rounded once, which no device does.
void MultiplyTf32(Operands operands, Site site);
void MultiplyHalf(Operands operands, Site site);
void MultiplyBFloat16(Operands operands, Site site);

}  // namespace lstm_fast::emulation

#endif  // LSTM_FAST_TESTS_EMULATION_MATRIX_H_
