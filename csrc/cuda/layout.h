// Sizes that a problem and its cut lead to, the same on both sides of a launch: the schedule asks how much memory a
// block needs, the kernel where things are in it.
//
// The words of the CUDA side, beside those of lstm_fast/lstm.h and of CUDA itself; none of them means two things:
//
//   pass      forward or backward
//   variant   a compiled pair of kernels, one for each pass
//   cut       how a pass is divided among blocks and their warps
//   group     thread blocks that run the same rows of the batch together; each of them owns some of the units
//   set       rows of the batch, in one direction, which a group runs from the first timestep to the last
//   round     rows that a warp multiplies at once; a set of more rows takes several rounds in every timestep
//   cell      a unit in a row: what a thread finishes in a timestep
//   fragment  of the recurrent kernel: 16 bytes for each lane of a warp, which are `depth` terms of a sum, for 32
//             columns of the gates (multiply-add) or for 16 (tensor cores)
//   slice     `depth` terms of a sum, in all fragments that a job has of them
//   job       what a warp computes at once. Forward, the four gates of 8 units: with tensor cores that takes two
//             fragments for each slice of h. Backward, parts of dh for `backward_units` units
//   split     a piece of a job's sum, which is a job of its own. Forward, kernels of the split kind give one to every
//             warp; backward, all do, and the sum is over the block's own gate columns
//   part      the sum of a split, until all are added up
//   operand   what the recurrent kernel is multiplied with, as products read it: h or dz
//   plan      the real timesteps of every row, as the device has found them in the mask
//   single    of kernels for few units: a group of one block or two that has one row, and a job for every warp
#ifndef LSTM_FAST_CUDA_LAYOUT_H_
#define LSTM_FAST_CUDA_LAYOUT_H_

#include <cstdint>

#include "cuda/host_device.h"
#include "cuda/kernels.h"
#include "cuda/recurrence.h"
#include "lstm_fast/lstm.h"

namespace lstm_fast::cuda {

template <class A, class B>
LSTM_FAST_HOST_DEVICE constexpr auto CeilDivide(A a, B b) {
  return (a + b - 1) / b;
}
template <class A, class B>
LSTM_FAST_HOST_DEVICE constexpr auto RoundUp(A a, B b) {
  return CeilDivide(a, b) * b;
}

// Of products; follow from the dtype and from whether tensor cores compute them.
struct ProductSizes {
  int real_bytes;         // of c, of sums, and of what the backward pass adds up
  int operand_bytes;      // of h and dz in shared memory
  int depth;              // terms of a slice
  int forward_fragments;  // of a slice
  int backward_units;     // of a job
};

LSTM_FAST_HOST_DEVICE constexpr ProductSizes ProductSizesOf(DType dtype, bool tensor_cores) {
  if (dtype == DType::kFloat64) return {8, 8, 2, 1, 32};
  if (!tensor_cores) return {4, 4, 4, 1, 32};
  return dtype == DType::kFloat32 ? ProductSizes{4, 4, 8, 2, 16} : ProductSizes{4, 2, 16, 2, 16};
}

// Elements from one row to the next of an operand with `terms` columns in shared memory: rows start 4 banks apart, so
// that the 8 rows and 4 columns that a warp's tensor cores read at once are in 32 different banks.
LSTM_FAST_HOST_DEVICE constexpr int OperandStride(ProductSizes sizes, int terms) {
  return (RoundUp(RoundUp(terms, sizes.depth) * sizes.operand_bytes, 128) + 16) / sizes.operand_bytes;
}

// From one row of parts to the next: in shared memory the 4 rows and 8 units that a warp writes at once are in
// 32 different banks.
LSTM_FAST_HOST_DEVICE constexpr int PartStride(const Cut& cut, bool shared) { return cut.units + (shared ? 4 : 0); }

// A row of the batch while a group runs it.
struct alignas(16) GroupRow {
  int32_t batch;  // its index, -1: none
  int32_t count;  // real timesteps
  int32_t first;  // the first of them, -1: not contiguous
};

struct Layout {
  int operand_stride;   // elements
  int operand_size;     // elements of one buffer: [gates or 1][rows][stride] forward, [rows][stride] backward
  int operand_buffers;  // forward: of two, one is read while the other is written
  int slices;           // of a job
  int jobs;             // of the block
  int job_fragments;
  int gate_terms;  // backward: terms of a gate in the sum, padded
  // Reals of the parts: [splits][4][rows][stride]; backward one of two [sources][rows][stride].
  int part_size, part_stride;
  int64_t exchange_size;  // Exchange::kGrid: bytes of one of the group's two buffers in global memory

  // Bytes from the start of the block's shared memory.
  int operand, state, parts, rows, fragments;
  int64_t end;
};

LSTM_FAST_HOST_DEVICE constexpr Layout ForwardLayout(ProductSizes sizes, int registers, int units, const Cut& cut,
                                                     bool dropout, bool split) {
  Layout layout{};
  const bool grid = cut.exchange == Exchange::kGrid;
  // Fragments in registers are multiplied, though they may be more than a short sum has: by columns that are there.
  const int held = registers / sizes.forward_fragments * sizes.depth;
  layout.slices = CeilDivide(CeilDivide(units, sizes.depth), cut.splits);
  const int split_terms = layout.slices * sizes.depth, last_terms = split_terms > held ? split_terms : held;
  layout.operand_stride = OperandStride(sizes, (cut.splits - 1) * split_terms + last_terms);
  layout.operand_size = (dropout ? 4 : 1) * cut.rows * layout.operand_stride;
  layout.operand_buffers = grid ? 1 : 2;
  layout.jobs = cut.units / kWarpUnits * cut.splits;
  layout.job_fragments = layout.slices * sizes.forward_fragments;
  layout.exchange_size = grid ? int64_t{layout.operand_size} * sizes.operand_bytes : 0;
  layout.operand = 0;
  layout.state = layout.operand_buffers * layout.operand_size * sizes.operand_bytes;
  layout.parts = RoundUp(layout.state + cut.rows * cut.units * sizes.real_bytes, 16);
  layout.part_stride = PartStride(cut, true);
  layout.part_size = split ? cut.splits * 4 * cut.rows * layout.part_stride : 0;
  layout.rows = RoundUp(layout.parts + layout.part_size * sizes.real_bytes, 16);
  layout.fragments = RoundUp(layout.rows + cut.rows * static_cast<int>(sizeof(GroupRow)), 16);
  layout.end = layout.fragments + int64_t{cut.warps} * cut.fragments_shared * kFragmentBytes;
  return layout;
}

LSTM_FAST_HOST_DEVICE constexpr Layout BackwardLayout(ProductSizes sizes, int registers, int units, const Cut& cut) {
  Layout layout{};
  const bool grid = cut.exchange == Exchange::kGrid;
  layout.gate_terms = RoundUp(cut.units, sizes.depth);
  const int split_terms = 4 * layout.gate_terms / cut.splits, held = registers * sizes.depth;
  const int last_terms = split_terms > held ? split_terms : held;
  layout.operand_stride = OperandStride(sizes, (cut.splits - 1) * split_terms + last_terms);
  layout.operand_size = cut.rows * layout.operand_stride;
  layout.operand_buffers = 1;
  layout.slices = split_terms / sizes.depth;
  layout.jobs = CeilDivide(units, sizes.backward_units) * cut.splits;
  layout.job_fragments = layout.slices;
  layout.part_stride = PartStride(cut, !grid);
  layout.part_size = cut.blocks * cut.splits * cut.rows * layout.part_stride;
  layout.exchange_size = grid ? int64_t{cut.blocks} * layout.part_size * sizes.real_bytes : 0;
  layout.operand = 0;
  layout.state = layout.operand_size * sizes.operand_bytes;
  layout.parts = RoundUp(layout.state + cut.rows * cut.units * sizes.real_bytes, 16);
  layout.rows = layout.parts + (grid ? 0 : 2 * layout.part_size * sizes.real_bytes);
  layout.fragments = RoundUp(layout.rows + cut.rows * static_cast<int>(sizeof(GroupRow)), 16);
  layout.end = layout.fragments + int64_t{cut.warps} * cut.fragments_shared * kFragmentBytes;
  return layout;
}

// Kernels of single.h. Units of a slice: forward 4 lanes have 4 terms each, backward 32 lanes the gates of a unit each.
constexpr int kSingleForwardSlice = 16, kSingleBackwardSlice = 32;

// Reals of one of the two buffers in shared memory: h, or dz of all gates.
LSTM_FAST_HOST_DEVICE constexpr int SingleForwardSize(int units) { return RoundUp(units, kSingleForwardSlice); }
LSTM_FAST_HOST_DEVICE constexpr int SingleBackwardSize(int units) { return 4 * RoundUp(units, kSingleBackwardSlice); }

// Bytes of both buffers, behind which SingleExchange has its memory: two numbers for each warp that has the row.
constexpr int kSingleMostWarps = 16;
LSTM_FAST_HOST_DEVICE constexpr int64_t SingleBufferBytes(int units, Pass pass) {
  const int size = pass == Pass::kBackward ? SingleBackwardSize(units) : SingleForwardSize(units);
  return 2 * size * int64_t{sizeof(float)};
}
constexpr int64_t SingleSharedBytes(int units, Pass pass) {
  return SingleBufferBytes(units, pass) + 2 * kSingleMostWarps * int64_t{sizeof(int32_t)};
}

// Of the recurrent kernel, in registers.
constexpr int SingleFragments(int units, Pass pass) {
  const int terms = pass == Pass::kBackward ? SingleBackwardSize(units) * kWarpUnits / 32 : SingleForwardSize(units);
  return terms * 4 * 32 / kFragmentBytes;
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_LAYOUT_H_
