// What an instruction set's file offers to the schedule in layer.cc: plain structs and function pointers, so that no
// inline code is shared between objects compiled for different processors. The words are explained in csrc/README.md.
//
// Packed layouts. L is the number of lanes of a vector, P = ceil(H / L) the number of unit panels, Hp = P * L. Padding
// lanes hold zeros.
//   gate panels        [P][K][4][L]        K rows of a [K, 4H] matrix; the four gates of the same L units side by side
//   gate rows          [P][R][4][L]        z or dz of R (timestep, row) pairs
//   transposed panels  [Q][P*4*L][width]   column panels of the transpose; width is 4L, in the last panel the rest
//                                          rounded up to L
//   reserve, kGates    per row and entry: [P][5][L], gates i, f, g, o and then c
//   reserve, kRecompute  per row and checkpoint: [2][Hp], h and c before the step
// An entry is a step that was computed: see reserve.inl.
#ifndef LSTM_FAST_CPU_KERNEL_H_
#define LSTM_FAST_CPU_KERNEL_H_

#include <cstdint>

#include "lstm_fast/lstm.h"

namespace lstm_fast {

// Static: each object has its own.
static constexpr int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }
static constexpr int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

// So many timesteps that repeat others are skipped at once, or none: they leave room in the reserve for the note of it,
// and for a checkpoint.
constexpr int64_t kLeastSkip = 64;
// Steps of a block of the reserve, and of a chunk of the forward pass where rows may skip some.
constexpr int64_t kBlockSteps = 8;

// One batch row: its place in the batch and its real timesteps.
struct Row {
  int64_t batch;
  int64_t count;           // real timesteps
  const int32_t* steps;    // their times in input order
  int64_t reserve_offset;  // where its part of a direction's reserve starts, in elements of Real
  int64_t table_elements;  // of it, if it is the table of its blocks; 0: its steps themselves are there
  int64_t repeated;        // about how many of them have the input of the one before; 0: nobody has looked, or too few
};

// A sequence [B, time, features] in memory; strides in elements, features contiguous.
struct Sequence {
  void* data;
  int64_t batch_stride, time_stride;
};

// Everything one direction needs, for both passes. Read-only while tiles run; a tile writes only its own rows.
template <class Real>
struct Direction {
  DType dtype;  // of x, y, states and their gradients
  int64_t batch, time, units;
  int64_t input;     // rows of kernel: the features of x, or 0 where x is projected
  bool projected;    // x is projected: the 4 * units features from its data on
  bool reversed;     // runs backward in time
  bool input_order;  // y is in input order even so
  bool return_sequences, zero_output_for_mask, masked;
  bool repeats;       // there may be timesteps that repeat: rows say which
  bool passes_zeros;  // the backward pass leaves out timesteps in which all gradients are zero
  bool skips_by_row;  // the backward pass goes through skipped timesteps row by row; then its teams are of one thread
  Reserve reserve_mode;
  int64_t chunk_steps;  // timesteps projected at once
  // Count timesteps that the forward pass does not compute, as they repeat, and that the backward pass passes over;
  // shared by threads.
  int64_t *skipped_steps, *passed_steps;

  Sequence x;
  bool in_place;                  // all kernels here are [K, 4H] as they were given; H is a multiple of L
  const Real* kernel;             // gate panels, K = input
  const Real* recurrent_kernel;   // gate panels, K = units; null where no step reads it
  const Real* bias;               // gate panels, K = 1
  const void *h0, *c0;            // [B, H] or null: zeros
  const void* input_dropout;      // [4, B, D] or null
  const void* recurrent_dropout;  // [4, B, H] or null
  Real* reserve;
  Real* blocks;         // of the reserve, for both directions
  int64_t* next_block;  // forward only: the first that is free; shared by threads

  // Outputs of the forward pass; null where the backward pass only wants the reserve again.
  Sequence y;  // this direction's H features
  void *h_n, *c_n;

  // Backward only.
  const Real* kernel_transposed;            // transposed panels, columns = input; null when dx is not wanted
  const Real* recurrent_kernel_transposed;  // transposed panels, columns = units; null where no step reads it
  Sequence dy;                              // data null: zero
  const void *dh_n, *dc_n;                  // [B, H] or null
  Sequence dx;                              // data null: not wanted
  DType dx_dtype;
  bool dx_accumulates;  // adds to what the other direction wrote
  void *dh0, *dc0;      // [B, H]; null: not wanted
};

// Where a backward tile adds up the gradients of the weights: gate panels with K = D, H and 1, or [K, 4H] in place.
template <class Real>
struct WeightGradient {
  Real *kernel, *recurrent_kernel, *bias;
  bool fresh;  // holds nothing yet: the tile writes where it would add
  bool in_place;
};

// The threads that run one tile together. A tile that only one thread runs has a team of one.
//
// In the forward pass each member has its own units, in every timestep. In the backward pass a chunk has two phases: to
// go back through its timesteps, a team splits into groups with rows of their own, whose members share their units;
// then all have a part of the products, which no longer depend on who computed what.
struct Team {
  int64_t rank, size;
  // Returns when all `size` members have called it for the barrier of that number.
  void (*wait)(void* barriers, int64_t number, int64_t size);
  void* barriers;
  int64_t groups = 1;
  int64_t barrier = 0;

  void Wait() const {
    if (size > 1) wait(barriers, barrier, size);
  }
  // This member's share of `count` things: [First(count), Last(count)).
  int64_t First(int64_t count) const { return count * rank / size; }
  int64_t Last(int64_t count) const { return count * (rank + 1) / size; }

  // This member's group, and that group's share of `count` rows.
  int64_t group() const { return rank * groups / size; }
  int64_t FirstOfGroup(int64_t count) const { return count * group() / groups; }
  int64_t LastOfGroup(int64_t count) const { return count * (group() + 1) / groups; }
  // The members of its group, as a team.
  Team Group() const {
    const int64_t first = (group() * size + groups - 1) / groups, end = ((group() + 1) * size + groups - 1) / groups;
    return {rank - first, end - first, wait, barriers, 1, 1 + group()};
  }
};

// The team of a thread that has a tile for itself.
constexpr Team kAlone = {0, 1, nullptr, nullptr};

template <class Real>
struct Kernels {
  int64_t lanes;
  int64_t micro_rows;  // rows of the widest register tile

  // Scratch that a tile of `rows` rows needs, in elements.
  int64_t (*forward_scratch)(const Direction<Real>&, int64_t rows);
  int64_t (*backward_scratch)(const Direction<Real>&, int64_t rows);

  // Rows of similar length share the work best. Every member of a team calls with the same arguments but for its rank.
  // In the forward pass with recurrent dropout or kRecompute, and in the backward pass where rows go through skips by
  // themselves, the team is one thread. In groups of several members there is no recurrent dropout.
  void (*forward)(const Direction<Real>&, const Row* rows, int64_t row_count, Real* scratch, const Team&);
  void (*backward)(const Direction<Real>&, const Row* rows, int64_t row_count, const WeightGradient<Real>&,
                   Real* scratch, const Team&);

  // Packs rows [k0, k1) of a [K, 4H] matrix into gate panels; a null matrix gives zeros.
  void (*pack_gates)(DType, const void* matrix, int64_t k, int64_t k0, int64_t k1, int64_t units, Real* packed);
  // Packs column panel q of the transpose of a [K, 4H] matrix.
  void (*pack_transposed)(DType, const void* matrix, int64_t k, int64_t units, int64_t panel, Real* packed);
  // Sums `count` partial gate-panel matrices, `stride` elements apart, and writes rows [k0, k1) of [K, 4H].
  void (*unpack_gates)(DType, const Real* packed, int64_t count, int64_t stride, int64_t k, int64_t k0, int64_t k1,
                       int64_t units, void* matrix);

  void (*convert)(DType, const Real* from, void* to, int64_t count);

  void (*sigmoid)(const Real* x, Real* y, int64_t count);
  void (*tanh)(const Real* x, Real* y, int64_t count);
};

struct Isa {
  const char* name;
  const Kernels<float>* float32;
  const Kernels<double>* float64;
};

// One per file; only kGenericIsa is compiled in on every machine.
extern const Isa kGenericIsa, kAvx2Isa, kAvx512Isa, kNeonIsa;

// The active instruction set. Throws std::invalid_argument when LSTM_FAST_ISA cannot be had.
const Isa& GetActiveIsa();

// Units with the padding of that instruction set of the build which pads the most.
int64_t MostPaddedUnits(DType dtype, int64_t units);

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_KERNEL_H_
