// What a launch of a kernel gets, and the kernels that there are. The schedule of a pass is in recurrence.cu, the words
// are explained in layout.h.
#ifndef LSTM_FAST_CUDA_KERNELS_H_
#define LSTM_FAST_CUDA_KERNELS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/recurrence.h"
#include "lstm_fast/lstm.h"

namespace lstm_fast::cuda {

enum class Pass { kForward, kBackward };

// The real timesteps of every row, found on the device. All null where there is no mask.
struct DevicePlan {
  int32_t* order;  // [B]: rows by falling count, ties in their order
  int32_t* count;  // [B]: number of real timesteps
  int32_t* first;  // [B]: the first of them where they are contiguous, else -1
  int32_t* steps;  // [B, T]: their places, ascending; written for rows that are not contiguous
};

constexpr int64_t PlanInts(int64_t batch, int64_t time) { return batch * (3 + time); }

struct PlanCall {
  const MaskByte* mask;  // [B, T]
  int64_t batch, time;
  DevicePlan plan;
};

// Where masked timesteps carry on the output of the real one before them, which gets the gradients of all: the sum of
// those in the padding after a row's last real timestep.
struct PaddingCall {
  Problem problem;
  DevicePlan plan;
  const void* dy;
  void* sums;  // [N, B, H] reals; what is there for rows without real timesteps is not defined
};

struct ForwardCall {
  Inputs inputs;
  ForwardArguments arguments;
  Cut cut;
  DevicePlan plan;
  bool skips;          // kernels of single.h: timesteps that repeat are copied
  void* exchange;      // Exchange::kGrid: ExchangeBytes() bytes for each group
  unsigned* counters;  // Exchange::kGrid: one for each group, zero at launch
};

struct BackwardCall {
  Inputs inputs;
  BackwardArguments arguments;
  Cut cut;
  DevicePlan plan;
  const void* padding;  // sums of PaddingCall; null: masked timesteps carry on nothing
  bool skips;           // kernels of single.h: timesteps whose gradients are zero are passed over
  void* exchange;
  unsigned* counters;
};

// Completes an array [B, T, features] at masked timesteps, after a pass has written the real ones.
struct FillCall {
  const MaskByte* mask;  // [B, T]
  int64_t batch, time;
  int64_t row_bytes;      // of a timestep: a multiple of 2
  int64_t offset, bytes;  // the part of a timestep that is filled
  bool carry;             // with the value of the previous real timestep, zero where there is none; otherwise zero
  bool reversed;          // the recurrence runs backward in time, and the previous timestep is a later one
  bool flipped;           // timestep t is at [T - 1 - t] of the array, not at [t]
  void* array;
};

using ForwardKernel = void (*)(ForwardCall);
using BackwardKernel = void (*)(BackwardCall);

// One compiled pair of recurrence kernels. `registers` fragments of the recurrent kernel per warp stay in registers.
struct Variant {
  std::string name;
  DType dtype;
  Precision precision;
  bool tensor_cores;
  int rows;               // that a warp computes at once
  int registers;          // fragments
  bool split;             // forward, several warps share the sum over the units of h; otherwise a cut has splits = 1
  bool dropout;           // has recurrent dropout
  int most_threads;       // of a block
  int most_units;         // kernels of single.h, whose blocks have everything of a row, others: 0
  int row_blocks;         // of such a kernel
  ForwardKernel forward;  // null: this is for the other pass only
  BackwardKernel backward;
};

LSTM_FAST_EXPORT const std::vector<Variant>& Variants();

constexpr int kFragmentBytes = 512;
constexpr int kFragmentsAtOnce = 8;  // in registers are multiplied, be some of them beyond the end of the sum
constexpr int kWarpUnits = 8;        // of a job of the forward pass, and of a warp of kernels of single.h

// What follows from a cut. ExchangeBytes() is for one group.
int64_t SharedBytes(const Problem& problem, const Variant& variant, const Cut& cut, Pass pass);
int64_t ExchangeBytes(const Problem& problem, const Variant& variant, const Cut& cut, Pass pass);
// What a warp has to do with: jobs, and fragments of the recurrent kernel for each of them. Those of its first job stay
// in registers as far as they go.
struct WarpWork {
  int64_t jobs, fragments_of_job;
};
WarpWork WorkOfWarp(const Problem& problem, const Variant& variant, const Cut& cut, Pass pass);

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_KERNELS_H_
