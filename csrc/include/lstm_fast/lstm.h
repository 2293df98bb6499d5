// The contract of the fused LSTM: equations, layouts, ownership. Kernels know no framework; a binding validates its
// arguments and fills the structs below, a kernel assumes that they are valid.
//
// Equations (Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, as keras.layers.LSTM computes
// them). The gate order is Keras's, `i, f, c, o`, along the last axis of kernel, recurrent_kernel and bias:
//
//   z_t = (m_x * x_t) W + (m_h * h_{t-1}) U + b      i, f, o = sigmoid(z_i, z_f, z_o)      g = tanh(z_c)
//   c_t = f * c_{t-1} + i * g                        h_t = o * tanh(c_t)
//
// m_x and m_h are dropout multipliers (0 or 1/(1-rate)), one per gate, fixed over time; absent means 1.
// A masked timestep carries h and c through unchanged and its x_t is never read.
//
// There are two entry points. The layer computes all of this. The recurrence (Problem::projected) is for callers who
// project their inputs themselves: x is [B, T, N, 4H] and holds the first product, (m_x * x_t) W, of each direction.
//
// Letters: B batch, T time, D input features, H units, N directions (1 or 2). All arrays are dense and row-major
// unless a stride is given; strides are in elements. Elements have the problem's dtype; for float16 and bfloat16 all
// arithmetic, the cell state between steps and every accumulation are float32.
//
// Timesteps that repeat: while a row's real timesteps have the same input, bit for bit, and its h and c come back to
// what they were one to eight steps before, the rest of them up to the next other input is copied, not computed. Every
// output of the forward pass has the bits that it has when all are computed. The backward pass finds in the reserve
// what was left out; its gradients are as exact as ever.
//
// Timesteps without a gradient: once the gradients of h and c have come to nothing, and as long as y's are zero, all
// gradients are zero, and the backward pass passes over them. A gradient of h and c below the smallest normal number
// counts as zero there. isa.h counts the timesteps of both kinds, and turns this off.
//
// Determinism: a row's forward result depends neither on the other rows nor on the number of threads; gradients do
// not depend on the number of threads.
#ifndef LSTM_FAST_LSTM_H_
#define LSTM_FAST_LSTM_H_

#include <cstdint>

#if defined(__GNUC__)
#define LSTM_FAST_EXPORT __attribute__((visibility("default")))
#else
#define LSTM_FAST_EXPORT
#endif

namespace lstm_fast {

// A mask has a byte for every timestep. A timestep is real where it is not 0: what frameworks call a boolean may hold
// any other number than 1, as where a NumPy array of bytes is viewed as bool.
using MaskByte = uint8_t;

inline bool TimestepIsReal(MaskByte byte) { return byte != 0; }

enum class DType : int { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

inline const char* NameOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
  }
  return "";
}

inline int64_t SizeOf(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

// What the forward pass leaves in `reserve` for the backward pass.
enum class Reserve : int {
  kNone = 0,       // nothing: inference. Backward() then runs the forward pass again.
  kGates = 1,      // gates and cell state of every real timestep: 5 * H values each.
  kRecompute = 2,  // h and c at every kCheckpointInterval-th real timestep; Backward() recomputes the gates between.
};

// Real timesteps between two checkpoints: 16 keeps the recomputed gates of a row tile within L2 at H = 64.
constexpr int64_t kCheckpointInterval = 16;

// With two directions, direction 0 runs forward in time and direction 1 backward, and both write y in input order (what
// keras.layers.Bidirectional returns). With one direction, go_backwards runs it backward and writes y in processing
// order (what keras.layers.LSTM returns).
struct Problem {
  DType dtype;
  int64_t batch, time, input, units;
  int directions;
  bool projected;             // x is projected already: input is N * 4H, there is neither a kernel nor input dropout
  bool go_backwards;          // one direction only
  bool return_sequences;      // y has time T; otherwise 1, the last output in processing order
  bool zero_output_for_mask;  // masked outputs are 0; otherwise the previous output, 0 where there is none
  Reserve reserve;
  // How the reserve is laid out. False: without gaps; where timesteps repeat, what they leave over lies at its end and
  // is never touched. True: [B, N, ReserveSteps(), ReserveStepBytes()], of which padding leaves the end of every [B, N]
  // entry untouched; the size does not depend on the mask, and such a reserve may be cut and joined along B, as where a
  // batch is spread over devices.
  bool reserve_by_row;
};

// The parameters and states of one direction, read only. Pointers marked "or null" may be absent.
struct DirectionInput {
  const void* kernel;             // [D, 4H]; null where x is projected
  const void* recurrent_kernel;   // [H, 4H]
  const void* bias;               // [4H] or null
  const void* h0;                 // [B, H] or null: zeros
  const void* c0;                 // [B, H] or null: zeros
  const void* input_dropout;      // [4, B, D] or null: multipliers m_x
  const void* recurrent_dropout;  // [4, B, H] or null: multipliers m_h
};

struct Inputs {
  Problem problem;
  const void* x;                          // [B, T, D], features contiguous
  int64_t x_batch_stride, x_time_stride;  // in elements
  const MaskByte* mask;                   // [B, T] or null: every timestep is real
  DirectionInput direction[2];
};

// Outputs are written whole, padding included; they may not overlap the inputs or each other.
struct ForwardOutput {
  void* y;        // [B, T or 1, N * H], the directions side by side
  void* h_n[2];   // [B, H] each
  void* c_n[2];   // [B, H] each
  void* reserve;  // ReserveBytes() bytes, 64-byte aligned if possible; null when that is 0
};

// Incoming gradients. Null means zero.
struct BackwardInput {
  const void* reserve;  // as ForwardOutput::reserve
  const void* dy;       // [B, T or 1, N * H]
  const void* dh_n[2];  // [B, H] each
  const void* dc_n[2];  // [B, H] each
};

// Outgoing gradients, written whole; null pointers are not computed.
struct BackwardOutput {
  void* dx;                    // [B, T, D]; zero at masked timesteps. Of a projected x, the gradient of z
  void* dkernel[2];            // [D, 4H]; null where x is projected
  void* drecurrent_kernel[2];  // [H, 4H]
  void* dbias[2];              // [4H]
  void* dh0[2];                // [B, H]
  void* dc0[2];                // [B, H]
};

// Size of the reserve buffer. Its layout is private to the instruction set that wrote it: both passes must run in one
// process with the same active ISA. Unless laid out by row it depends on the mask: padded timesteps take no room.
LSTM_FAST_EXPORT int64_t ReserveBytes(const Problem& problem, const MaskByte* mask);

// Shape of a reserve that is laid out by row, the same for every instruction set of the build.
LSTM_FAST_EXPORT int64_t ReserveSteps(Reserve reserve, int64_t time);
LSTM_FAST_EXPORT int64_t ReserveStepBytes(Reserve reserve, DType dtype, int64_t units);

class Parallel;  // parallel.h: the threads that a call runs on

// Throws std::bad_alloc when scratch memory cannot be had; nothing else.
LSTM_FAST_EXPORT void Forward(const Inputs& inputs, const ForwardOutput& output, Parallel& parallel);
LSTM_FAST_EXPORT void Backward(const Inputs& inputs, const BackwardInput& gradient, const BackwardOutput& output,
                               Parallel& parallel);

}  // namespace lstm_fast

#endif  // LSTM_FAST_LSTM_H_
