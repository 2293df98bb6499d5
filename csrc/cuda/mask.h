// What surrounds the recurrence where there is a mask: finding the real timesteps, adding up the gradients of
// outputs after the last of them, and filling the other timesteps.
#ifndef LSTM_FAST_CUDA_MASK_H_
#define LSTM_FAST_CUDA_MASK_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/recurrence.h"
#include "cuda/rows.h"
#include "lstm_fast/lstm.h"

namespace lstm_fast::cuda {

// More rows stay in their order: to sort takes time with the square of their number, and with so many there are enough
// of every length for the device to do.
constexpr int64_t kMostSortedRows = 8192;

constexpr int kPlanThreads = 1024;            // of a block, at most
constexpr int kPlanRows = kPlanThreads / 32;  // that one block plans and sorts in one launch, a warp each

// The places of the rows in the order, a warp for one after the other; all counts are there.
LSTM_FAST_DEVICE void SortRows(const PlanCall& call, int64_t warp, int64_t warps) {
  const Global<const int32_t> counts = InGlobal<const int32_t>(call.plan.count);
  const Global<int32_t> order = InGlobal<int32_t>(call.plan.order);
  const int lane = Thread() % 32;
  for (int64_t b = warp; b < call.batch; b += warps) {
    const int32_t own = counts[b];
    int place = 0;
    for (int64_t other = lane; other < call.batch; other += 32) {
      const int32_t count = counts[other];
      place += count > own || (count == own && other < b) ? 1 : 0;
    }
    LSTM_FAST_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) place += ShuffleXor(place, distance);
    if (lane == 0) order[place] = static_cast<int32_t>(b);
  }
}

// A warp reads a row of the mask, some hundred timesteps at a time. A launch of one block sorts the rows, too.
LSTM_FAST_KERNEL void LSTM_FAST_BOUNDS(kPlanThreads, 1) PlanRows(LSTM_FAST_ARGUMENT PlanCall call) {
  constexpr int kAtOnce = 8;  // loads under way
  const Global<const MaskByte> mask = InGlobal<const MaskByte>(call.mask);
  const Global<int32_t> order = InGlobal<int32_t>(call.plan.order), counts = InGlobal<int32_t>(call.plan.count),
                        firsts = InGlobal<int32_t>(call.plan.first), steps = InGlobal<int32_t>(call.plan.steps);
  const int lane = Thread() % 32;
  const int64_t warps = int64_t{Blocks()} * Threads() / 32, warp = (int64_t{Block()} * Threads() + Thread()) / 32;
  for (int64_t b = warp; b < call.batch; b += warps) {
    int32_t count = 0, first = 0, last = -1;
    for (int64_t begin = 0; begin < call.time; begin += 32 * kAtOnce) {
      bool real[kAtOnce];
      LSTM_FAST_UNROLL
      for (int j = 0; j < kAtOnce; ++j) {
        const int64_t t = begin + 32 * j + lane;
        real[j] = t < call.time && mask[b * call.time + t] != 0;
      }
      LSTM_FAST_UNROLL
      for (int j = 0; j < kAtOnce; ++j) {
        const int32_t from = static_cast<int32_t>(begin) + 32 * j;
        const uint32_t found = Ballot(real[j]), below = found & ((1u << lane) - 1);
        if (real[j]) steps[b * call.time + count + CountBits(below)] = from + lane;
        if (found) {
          if (count == 0) first = from + CountBits((found & (0u - found)) - 1);
          last = from + HighestBit(found);
          count += CountBits(found);
        }
      }
    }
    if (lane == 0) {
      counts[b] = count;
      firsts[b] = last - first + 1 == count || count == 0 ? first : -1;
      if (call.batch > kMostSortedRows) order[b] = static_cast<int32_t>(b);
    }
  }
  if (Blocks() > 1) return;
  SyncBlock();
  SortRows(call, warp, warps);
}

// After PlanRows, of up to kMostSortedRows rows.
LSTM_FAST_KERNEL void LSTM_FAST_BOUNDS(kPlanThreads, 1) SortPlannedRows(LSTM_FAST_ARGUMENT PlanCall call) {
  SortRows(call, (int64_t{Block()} * Threads() + Thread()) / 32, int64_t{Blocks()} * Threads() / 32);
}

constexpr int kPaddingThreads = 128;

// A block takes 32 units of one row after the other, a unit for each lane. A warp adds every fourth timestep, from the
// first to the last, and then the warps' sums are added in their order: the same sum every time.
template <class Element>
LSTM_FAST_KERNEL void LSTM_FAST_BOUNDS(kPaddingThreads, 1) SumPadding(LSTM_FAST_ARGUMENT PaddingCall call) {
  using Real = RealOf<Element>;
  constexpr int kWarps = kPaddingThreads / 32;
  constexpr int kAtOnce = 16;  // loads under way
  const Problem& problem = call.problem;
  const Global<const Element> dy = InGlobal<const Element>(call.dy);
  const Global<Real> sums = InGlobal<Real>(call.sums);
  const Shared<Real> of_warps = InShared<Real>(0, kPaddingThreads);
  const int lane = Thread() % 32, warp = Thread() / 32, time = static_cast<int>(problem.time);
  const int64_t units = problem.units, strips = CeilDivide(units, 32), of_row = problem.directions * strips;
  for (int64_t i = Block(); i < problem.batch * of_row; i += Blocks()) {
    const int64_t b = i / of_row, unit = i % strips * 32 + lane;
    const int direction = static_cast<int>(i % of_row / strips);
    const int32_t count = InGlobal<const int32_t>(call.plan.count)[b];
    if (count == 0) continue;  // its outputs are zero, whatever its inputs are
    const bool reversed = IsReversed(direction, problem), exists = unit < units;
    const GroupRow row = {static_cast<int32_t>(b), count, InGlobal<const int32_t>(call.plan.first)[b]};
    const int last = TimeOf(row, count - 1, reversed, time, InGlobal<const int32_t>(call.plan.steps));
    const int padding = reversed ? last : time - 1 - last;
    Real sum = 0;
    for (int begin = warp; begin < padding; begin += kWarps * kAtOnce) {
      Real loaded[kAtOnce];
      LSTM_FAST_UNROLL
      for (int j = 0; j < kAtOnce; ++j) {
        const int k = begin + j * kWarps;
        loaded[j] = 0;
        if (k >= padding || !exists) continue;
        const int64_t step = b * time + OutputPlace(reversed ? last - 1 - k : last + 1 + k, problem);
        loaded[j] = ToReal(dy[(step * problem.directions + direction) * units + unit]);
      }
      LSTM_FAST_UNROLL
      for (int j = 0; j < kAtOnce; ++j) sum += loaded[j];
    }
    of_warps[Thread()] = sum;
    SyncBlock();
    if (warp == 0 && exists) {
      LSTM_FAST_UNROLL
      for (int other = 1; other < kWarps; ++other) sum += of_warps[other * 32 + lane];
      sums[(direction * problem.batch + b) * units + unit] = sum;
    }
    SyncBlock();  // before the sums of warps are replaced
  }
}

// A warp completes one timestep after the other.
LSTM_FAST_KERNEL void FillMasked(LSTM_FAST_ARGUMENT FillCall call) {
  const Global<const MaskByte> mask = InGlobal<const MaskByte>(call.mask);
  const Global<uint16_t> array = InGlobal<uint16_t>(call.array);
  const int lane = Thread() % 32;
  const int64_t warps = int64_t{Blocks()} * Threads() / 32;
  for (int64_t i = (int64_t{Block()} * Threads() + Thread()) / 32; i < call.batch * call.time; i += warps) {
    if (mask[i] != 0) continue;
    const int64_t b = i / call.time, t = i % call.time, step = call.reversed ? -1 : 1;
    int64_t from = -1;
    if (call.carry) {
      // 32 timesteps at a time, the nearest first: padding may be long.
      for (int64_t nearest = t - step; from < 0 && nearest >= 0 && nearest < call.time; nearest -= 32 * step) {
        const int64_t of = nearest - lane * step;
        const uint32_t real = Ballot(of >= 0 && of < call.time && mask[b * call.time + of] != 0);
        if (real) from = nearest - CountBits((real & (0u - real)) - 1) * step;
      }
    }
    const auto place = [&](int64_t of) {
      const int64_t row = b * call.time + (call.flipped ? call.time - 1 - of : of);
      return (row * call.row_bytes + call.offset) / 2;
    };
    for (int64_t j = lane; j < call.bytes / 2; j += 32) {
      array[place(t) + j] = from < 0 ? uint16_t{0} : uint16_t{array[place(from) + j]};
    }
  }
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_MASK_H_
