// The contract of the LSTM on CUDA devices: the recurrence only. The caller projects the inputs, z = x W, with its
// framework's own matrix product, and gets from the backward pass what the products of the weights' gradients need:
//
//   forward   z -> y, h_n, c_n, reserve           z_t is added to (m_h * h_{t-1}) U + b; equations: lstm_fast/lstm.h
//   backward  reserve, dy -> dz, h_prev, dh0, dc0
//   caller    dx = dz W^T    dW = x^T dz    dU = (m_h * h_prev)^T dz    db = sum of dz over batch and time
//
// One launch covers the whole sequence and all directions. A group of thread blocks owns some rows of the batch in one
// direction and keeps its share of the recurrent kernel on chip; rows stop at their own last real timestep.
//
// Letters as in lstm_fast/lstm.h: B batch, T time, H units, N directions. Elements have the problem's dtype unless the
// comment says otherwise; "real" is float64 for float64 and float32 for all else. All arrays are dense and row-major,
// on the device, aligned to the size of an element, and do not overlap.
//
// Nothing is allocated and nothing is waited for: every function below only puts kernels on the stream, and may be
// called while the stream is captured into a graph.
#ifndef LSTM_FAST_CUDA_RECURRENCE_H_
#define LSTM_FAST_CUDA_RECURRENCE_H_

#include <cstdint>

#include "lstm_fast/lstm.h"

namespace lstm_fast::cuda {

// How float32 products are computed. Other dtypes ignore it.
enum class Precision : int {
  kExact = 0,   // float32 multiply-add
  kTf32 = 1,    // tensor cores on operands of 10 bits of mantissa
  kTf32x3 = 2,  // tensor cores on operands split in two, whose product is as good as float32
};

struct Problem {
  DType dtype;
  Precision precision;
  int64_t batch, time, units;
  int directions;
  // As in lstm_fast::Problem.
  bool go_backwards, return_sequences, zero_output_for_mask;
};

// As lstm_fast::DirectionInput, without what is multiplied with x.
struct DirectionInput {
  const void* recurrent_kernel;   // [H, 4H]
  const void* bias;               // [4H] or null
  const void* h0;                 // [B, H] or null: zeros
  const void* c0;                 // [B, H] or null: zeros
  const void* recurrent_dropout;  // [4, B, H] or null: ones; the same for both directions
};

struct Inputs {
  Problem problem;
  const MaskByte* mask;  // [B, T] or null: every timestep is real
  DirectionInput direction[2];
};

constexpr int64_t RealBytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

// The reserve has an entry for each real timestep, at its place in the input; what is there for others is not defined.
// The first 4H reals are i, f, g, o of every unit, [H, 4], then c, [H].
constexpr int64_t kReserveAlignment = 16;
constexpr int64_t ReserveStepBytes(DType dtype, int64_t units) {
  return (5 * units * RealBytes(dtype) + kReserveAlignment - 1) / kReserveAlignment * kReserveAlignment;
}

struct ForwardArguments {
  const void* z;  // [B, T, N, 4H]
  void* y;        // [B, T or 1, N * H], the directions side by side; masked timesteps as lstm_fast/lstm.h says
  void* h_n[2];   // [B, H] each
  void* c_n[2];   // [B, H] each
  void* reserve;  // null: not kept. [B, N, T, step_bytes]
  int64_t reserve_step_bytes;  // a multiple of kReserveAlignment, at least ReserveStepBytes()
  void* scratch;               // ScratchBytes() bytes, aligned to kScratchAlignment
};

struct BackwardArguments {
  const void* reserve;  // of a forward call with the same inputs
  int64_t reserve_step_bytes;
  const void* dy;       // as y, or null: zeros
  const void* dh_n[2];  // [B, H] or null: zeros
  const void* dc_n[2];  // [B, H] or null: zeros
  void* dz;             // [B, T, N, 4H]; zero at masked timesteps
  void* h_prev;         // [B, T, N, H], h before each timestep; zero at masked timesteps, and it may be zero where all
                        // of dz is. Null: not wanted
  void* dh0[2];         // [B, H] each
  void* dc0[2];         // [B, H] each
  void* scratch;        // ScratchBytes() bytes, aligned to kScratchAlignment
};

using Stream = void*;  // cudaStream_t

// What of a device decides how a problem is cut.
struct Device {
  int major, minor;  // compute capability
  int multiprocessors;
  int64_t shared_bytes;  // that a block may have at most
  int code;              // what the kernels that run there are compiled for, 80 for 8.0; not above the device's own
};

// How a pass is cut; select.cc chooses. A group of `blocks` thread blocks runs `rows` rows of the batch in one
// direction, and block r of it owns units [r * units, (r + 1) * units), of which the last block may have fewer.
enum class Exchange : int {
  kBlock = 0,    // the group is one block: shared memory
  kCluster = 1,  // a thread block cluster: distributed shared memory (compute capability 9.0 or later)
  kGrid = 2,     // global memory and flags; all blocks must be resident at once
};

struct Cut {
  int variant;  // index of the kernel in variants.h
  Exchange exchange;
  int blocks;            // of a group
  int units;             // of a block, a multiple of 8
  int rows;              // of a group, a multiple of the variant's rows
  int groups;            // at once; a group takes one set of rows after the other
  int warps;             // of a block
  int splits;            // backward: pieces in which the sum over a block's 4 * units gate columns is computed
  int64_t shared_bytes;  // of a block
  int fragments_shared;  // fragments of the recurrent kernel per warp that are kept in shared memory
};

constexpr int64_t kScratchAlignment = 256;

// Bytes of scratch that both passes of a problem need on the device, which is the current one here and below; `masked`
// and `dropout` say whether there is a mask, and recurrent dropout. Throw std::invalid_argument where no kernel can run
// the problem, and std::runtime_error with CUDA's reason.
LSTM_FAST_EXPORT int64_t ScratchBytes(const Problem& problem, bool masked, bool dropout, const Device& device);

// The same where batch and time are not known yet: it is less than the sum of these.
struct ScratchBound {
  int64_t bytes_of_timestep;  // of every row
  int64_t bytes_of_row;
  int64_t bytes;
};
LSTM_FAST_EXPORT ScratchBound ScratchBytesAtMost(const Problem& problem, bool masked, bool dropout,
                                                 const Device& device);

LSTM_FAST_EXPORT void Forward(const Inputs& inputs, const ForwardArguments& arguments, const Device& device,
                              Stream stream);
LSTM_FAST_EXPORT void Backward(const Inputs& inputs, const BackwardArguments& arguments, const Device& device,
                               Stream stream);

// Whether timesteps that repeat others of their row are copied, and those whose gradients have all come to nothing
// passed over, with kernels that can (single_skip.h); true at first. For the whole process.
LSTM_FAST_EXPORT void SetSkips(bool wanted);

// How often they have run in this process.
struct CallCounts {
  int64_t forward, backward;
};
LSTM_FAST_EXPORT CallCounts GetCallCounts();

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_RECURRENCE_H_
