#include "matrix.h"

#include "numbers.h"

namespace lstm_fast::emulation {
namespace {

// How a type's values stand in the registers: `kPacked` of consecutive ones of a row of a, or of a column of b, in
// each.
struct Tf32 {
  static constexpr uint32_t kPacked = 1;
  static double Get(uint32_t word, uint32_t) { return numbers::FloatOf(word & ~uint32_t{0x1fff}); }
};
struct Half {
  static constexpr uint32_t kPacked = 2;
  static double Get(uint32_t word, uint32_t i) { return numbers::HalfToFloat(static_cast<uint16_t>(word >> 16 * i)); }
};
struct BFloat16 {
  static constexpr uint32_t kPacked = 2;
  static double Get(uint32_t word, uint32_t i) {
    return numbers::BFloat16ToFloat(static_cast<uint16_t>(word >> 16 * i));
  }
};

// Lane 4 g + t has rows g and g + 8 of a and d and column g of b. Registers 0 and 1 of a are those rows at depth
// t * kPacked, 2 and 3 the same four registers further; so are the two of b.
template <class Type>
void Multiply(void* const (&lanes)[kLanes]) {
  constexpr uint32_t kDepth = 8 * Type::kPacked;
  double a[16][kDepth], b[kDepth][8];
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    const auto& operands = *static_cast<const Operands*>(lanes[lane]);
    const uint32_t g = lane / 4, t = lane % 4;
    for (uint32_t i = 0; i < Type::kPacked; ++i) {
      for (uint32_t r = 0; r < 4; ++r) {
        a[g + 8 * (r % 2)][(t + 4 * (r / 2)) * Type::kPacked + i] = Type::Get(operands.a[r], i);
      }
      for (uint32_t r = 0; r < 2; ++r) b[(t + 4 * r) * Type::kPacked + i][g] = Type::Get(operands.b[r], i);
    }
  }
  for (uint32_t row = 0; row < 16; ++row) {
    double sum[8] = {};
    for (uint32_t k = 0; k < kDepth; ++k) {
      for (uint32_t column = 0; column < 8; ++column) sum[column] += a[row][k] * b[k][column];
    }
    for (uint32_t column = 0; column < 8; ++column) {
      const auto& operands = *static_cast<const Operands*>(lanes[row % 8 * 4 + column / 2]);
      float& d = operands.d[row / 8 * 2 + column % 2];
      d = static_cast<float>(d + sum[column]);
    }
  }
}

}  // namespace

void MultiplyTf32(Operands operands, Site site) { MeetWarp("MultiplyTf32", site, &Multiply<Tf32>, &operands); }
void MultiplyHalf(Operands operands, Site site) { MeetWarp("MultiplyHalf", site, &Multiply<Half>, &operands); }
void MultiplyBFloat16(Operands operands, Site site) {
  MeetWarp("MultiplyBFloat16", site, &Multiply<BFloat16>, &operands);
}

}  // namespace lstm_fast::emulation
