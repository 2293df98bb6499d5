// The rows of x that a chunk reads.
#ifndef LSTM_FAST_CPU_INPUT_INL_
#define LSTM_FAST_CPU_INPUT_INL_

#include <cstdint>

#include "cpu/chunk.inl"
#include "cpu/convert.inl"
#include "cpu/kernel.h"
#include "cpu/product.inl"
#include "cpu/scratch.inl"
#include "cpu/tile.inl"

namespace lstm_fast {
namespace {

// The rows of x of one chunk that are yet to be projected, converted and multiplied by the dropout masks where that is
// needed.
template <class Real>
class InputRows {
 public:
  InputRows(Scratch<Real>& scratch, const Direction<Real>& d, int64_t row_count)
      : d_(d), gates_(d.input_dropout ? 4 : 1), copies_(d.input_dropout || !IsReal<Real>(d.dtype)) {
    const int64_t capacity = d.projected ? 0 : row_count * d.chunk_steps;
    operand_.rows = scratch.template Take<const Real*>(capacity);
    operand_.per_gate = d.input_dropout != nullptr;
    operand_.gate_stride = capacity * d.input;
    if (copies_) buffer_ = scratch.template Take<Real>(gates_ * operand_.gate_stride);
    if (d.input_dropout) masks_ = scratch.template Take<Real>(row_count * 4 * d.input);
  }

  // Reads the dropout multipliers of some of the tile's rows.
  void LoadMasks(const Row* rows, int64_t first, int64_t last) {
    if (!d_.input_dropout) return;
    for (int64_t r = first; r < last; ++r) {
      for (int64_t gate = 0; gate < 4; ++gate) {
        LoadRow(d_.dtype, d_.input_dropout, (gate * d_.batch + rows[r].batch) * d_.input, d_.input, mask(r, gate));
      }
    }
  }

  Real* mask(int64_t r, int64_t gate) const { return masks_ + (r * 4 + gate) * d_.input; }

  const Operand<Real>& operand() const { return operand_; }

  // Of the rows at the positions [begin, end) of a chunk. Equal inputs, of which it knows, are read once.
  void Gather(const Chunk& chunk, const Row* rows, int64_t begin, int64_t end) const {
    if (d_.projected) return;
    for (int64_t step = 0; step < chunk.steps; ++step) {
      for (int64_t position = begin; position < end && position < chunk.active[step]; ++position) {
        const int64_t index = chunk.InputOf(chunk.Pair(step, position));
        if (step > 0 && chunk.InputOf(chunk.Pair(step - 1, position)) == index) continue;
        const int64_t r = chunk.row[position], time = TimeOf(d_, rows[r], chunk.from[position] + step);
        const int64_t offset = OffsetOf(d_.x, rows[r], time);
        if (!copies_) {
          operand_.rows[index] = static_cast<const Real*>(d_.x.data) + offset;
          continue;
        }
        Real* row = buffer_ + index * d_.input;
        operand_.rows[index] = row;
        if (!operand_.per_gate) {
          LoadRow(d_.dtype, d_.x.data, offset, d_.input, row);
          continue;
        }
        for (int64_t gate = 0; gate < 4; ++gate) {
          Real* masked = row + gate * operand_.gate_stride;
          LoadRow(d_.dtype, d_.x.data, offset, d_.input, masked);
          for (int64_t i = 0; i < d_.input; ++i) masked[i] *= mask(r, gate)[i];
        }
      }
    }
  }

 private:
  const Direction<Real>& d_;
  int64_t gates_;
  bool copies_;
  Operand<Real> operand_{};
  Real* buffer_ = nullptr;
  Real* masks_ = nullptr;
};

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_INPUT_INL_
