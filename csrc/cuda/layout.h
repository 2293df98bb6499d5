// Sizes that a problem and its cut lead to, the same on both sides of a launch: the schedule asks how much memory a
// block needs, the kernel where things are in it.
//
// The recurrent kernel is cut into fragments, 16 bytes for each lane of a warp: `depth` terms of a sum, for 32 columns
// of the gates (multiply-add) or for 16 (tensor cores). Forward, a warp's job is the four gates of 8 units: with tensor
// cores that takes two fragments for each `depth` units of h. Kernels of the split kind give a job one piece ("split")
// of the sum only, so that there is one for every warp. Backward, all do: a job is a split of the sum over the block's
// own gate columns, for `backward_units` units of dh. Other words are explained in csrc/README.md.
#ifndef LSTM_FAST_CUDA_LAYOUT_H_
#define LSTM_FAST_CUDA_LAYOUT_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/kernels.h"

namespace lstm_fast::cuda {

template <class Integer>
LSTM_FAST_HOST_DEVICE constexpr Integer CeilDivide(Integer a, int b) {
  return (a + b - 1) / b;
}
template <class Integer>
LSTM_FAST_HOST_DEVICE constexpr Integer RoundUp(Integer a, int b) {
  return CeilDivide(a, b) * b;
}

// How products are cut up; follows from the dtype and from whether tensor cores compute them.
struct Tile {
  int real_bytes;         // of c, of sums, and of what the backward pass adds up
  int operand_bytes;      // of h and dz in shared memory
  int depth;              // terms of a fragment
  int forward_fragments;  // of a job, for each `depth` terms
  int backward_units;     // of a job
};

LSTM_FAST_HOST_DEVICE constexpr Tile TileOf(DType dtype, bool tensor_cores) {
  if (dtype == DType::kFloat64) return {8, 8, 2, 1, 32};
  if (!tensor_cores) return {4, 4, 4, 1, 32};
  return dtype == DType::kFloat32 ? Tile{4, 4, 8, 2, 16} : Tile{4, 2, 16, 2, 16};
}

// Elements from one row to the next of an operand with `terms` columns in shared memory: rows start 4 banks apart, so
// that the 8 rows and 4 columns that a warp's tensor cores read at once are in 32 different banks.
LSTM_FAST_HOST_DEVICE constexpr int OperandStride(Tile tile, int terms) {
  return (RoundUp(RoundUp(terms, tile.depth) * tile.operand_bytes, 128) + 16) / tile.operand_bytes;
}

// From one row of partial sums to the next: in shared memory the 4 rows and 8 units that a warp writes at once are in
// 32 different banks.
LSTM_FAST_HOST_DEVICE constexpr int PartialStride(const Cut& cut, bool shared) { return cut.units + (shared ? 4 : 0); }

// A row of the batch while a group runs it.
struct alignas(16) Row {
  int32_t batch;  // its index, -1: none
  int32_t count;  // real timesteps
  int32_t first;  // the first of them, -1: not contiguous
};

struct Layout {
  int operand_stride;   // elements
  int operand_size;     // elements of one buffer: [gates or 1][rows][stride] forward, [rows][stride] backward
  int operand_buffers;  // forward: of two, one is read while the other is written
  int depth_tiles;      // fragments along the sum of a job
  int jobs;             // of the block
  int job_fragments;
  int gate_terms;  // backward: terms of a gate in the sum, padded
  // Reals of partial sums: [splits][4][rows][stride]; backward one of two [sources][rows][stride].
  int partial_size, partial_stride;
  int64_t exchange_size;  // Exchange::kGrid: bytes of one of the group's two buffers in global memory

  // Bytes from the start of the block's shared memory.
  int operand, state, partial, rows, fragments;
  int64_t end;
};

LSTM_FAST_HOST_DEVICE constexpr Layout ForwardLayout(Tile tile, int registers, int units, const Cut& cut, bool dropout,
                                                     bool split) {
  Layout layout{};
  const bool grid = cut.exchange == Exchange::kGrid;
  // Fragments in registers are multiplied, though they may be more than a short sum has: by columns that are there.
  const int held = registers / tile.forward_fragments * tile.depth;
  layout.depth_tiles = CeilDivide(CeilDivide(units, tile.depth), cut.splits);
  const int split_terms = layout.depth_tiles * tile.depth, last_terms = split_terms > held ? split_terms : held;
  layout.operand_stride = OperandStride(tile, (cut.splits - 1) * split_terms + last_terms);
  layout.operand_size = (dropout ? 4 : 1) * cut.rows * layout.operand_stride;
  layout.operand_buffers = grid ? 1 : 2;
  layout.jobs = cut.units / kWarpUnits * cut.splits;
  layout.job_fragments = layout.depth_tiles * tile.forward_fragments;
  layout.exchange_size = grid ? int64_t{layout.operand_size} * tile.operand_bytes : 0;
  layout.operand = 0;
  layout.state = layout.operand_buffers * layout.operand_size * tile.operand_bytes;
  layout.partial = RoundUp(layout.state + cut.rows * cut.units * tile.real_bytes, 16);
  layout.partial_stride = PartialStride(cut, true);
  layout.partial_size = split ? cut.splits * 4 * cut.rows * layout.partial_stride : 0;
  layout.rows = RoundUp(layout.partial + layout.partial_size * tile.real_bytes, 16);
  layout.fragments = RoundUp(layout.rows + cut.rows * static_cast<int>(sizeof(Row)), 16);
  layout.end = layout.fragments + int64_t{cut.warps} * cut.fragments_shared * kFragmentBytes;
  return layout;
}

LSTM_FAST_HOST_DEVICE constexpr Layout BackwardLayout(Tile tile, int registers, int units, const Cut& cut) {
  Layout layout{};
  const bool grid = cut.exchange == Exchange::kGrid;
  layout.gate_terms = RoundUp(cut.units, tile.depth);
  const int split_terms = 4 * layout.gate_terms / cut.splits, held = registers * tile.depth;
  const int last_terms = split_terms > held ? split_terms : held;
  layout.operand_stride = OperandStride(tile, (cut.splits - 1) * split_terms + last_terms);
  layout.operand_size = cut.rows * layout.operand_stride;
  layout.operand_buffers = 1;
  layout.depth_tiles = split_terms / tile.depth;
  layout.jobs = CeilDivide(units, tile.backward_units) * cut.splits;
  layout.job_fragments = layout.depth_tiles;
  layout.partial_stride = PartialStride(cut, !grid);
  layout.partial_size = cut.blocks * cut.splits * cut.rows * layout.partial_stride;
  layout.exchange_size = grid ? int64_t{cut.blocks} * layout.partial_size * tile.real_bytes : 0;
  layout.operand = 0;
  layout.state = layout.operand_size * tile.operand_bytes;
  layout.partial = RoundUp(layout.state + cut.rows * cut.units * tile.real_bytes, 16);
  layout.rows = layout.partial + (grid ? 0 : 2 * layout.partial_size * tile.real_bytes);
  layout.fragments = RoundUp(layout.rows + cut.rows * static_cast<int>(sizeof(Row)), 16);
  layout.end = layout.fragments + int64_t{cut.warps} * cut.fragments_shared * kFragmentBytes;
  return layout;
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_LAYOUT_H_
