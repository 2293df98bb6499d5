// What surrounds the recurrence where there is a mask: finding the real timesteps, and filling the others.
#ifndef LSTM_FAST_CUDA_PLAN_H_
#define LSTM_FAST_CUDA_PLAN_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/kernels.h"

namespace lstm_fast::cuda {

// More rows stay in their order: to sort takes time with the square of their number, and with so many there are enough
// of every length for the device to do.
constexpr int64_t kMostSortedRows = 8192;

// One block. A warp reads a row of the mask, 32 timesteps at a time.
LSTM_FAST_KERNEL void LSTM_FAST_BOUNDS(kPlanThreads, 1) PlanRows(LSTM_FAST_ARGUMENT PlanCall call) {
  const Global<const MaskByte> mask = InGlobal<const MaskByte>(call.mask);
  const Global<int32_t> order = InGlobal<int32_t>(call.plan.order), counts = InGlobal<int32_t>(call.plan.count),
                        firsts = InGlobal<int32_t>(call.plan.first), steps = InGlobal<int32_t>(call.plan.steps);
  const int lane = Thread() % 32, warps = Threads() / 32;
  for (int64_t b = Thread() / 32; b < call.batch; b += warps) {
    int32_t count = 0, first = 0, last = -1;
    for (int64_t begin = 0; begin < call.time; begin += 32) {
      const int64_t t = begin + lane;
      const bool real = t < call.time && mask[b * call.time + t] != 0;
      const uint32_t found = Ballot(real), below = found & ((1u << lane) - 1);
      if (real) steps[b * call.time + count + CountBits(below)] = static_cast<int32_t>(t);
      if (found) {
        if (count == 0) first = static_cast<int32_t>(begin) + CountBits((found & (0u - found)) - 1);
        last = static_cast<int32_t>(begin) + HighestBit(found);
        count += CountBits(found);
      }
    }
    if (lane == 0) {
      counts[b] = count;
      firsts[b] = last - first + 1 == count || count == 0 ? first : -1;
    }
  }
  SyncBlock();
  for (int64_t b = Thread(); b < call.batch; b += Threads()) {
    int64_t place = b;
    if (call.batch <= kMostSortedRows) {
      const int32_t own = counts[b];
      place = 0;
      for (int64_t other = 0; other < call.batch; ++other) {
        const int32_t count = counts[other];
        place += count > own || (count == own && other < b) ? 1 : 0;
      }
    }
    order[place] = static_cast<int32_t>(b);
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

#endif  // LSTM_FAST_CUDA_PLAN_H_
