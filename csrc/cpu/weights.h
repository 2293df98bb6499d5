// The weights of a call, packed as the kernels read them, and their gradients, unpacked as the caller wants them.
#ifndef LSTM_FAST_CPU_WEIGHTS_H_
#define LSTM_FAST_CPU_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "cpu/kernel.h"
#include "lstm_fast/lstm.h"
#include "lstm_fast/parallel.h"

namespace lstm_fast {

template <class Real>
class Weights {
 public:
  // `longest`: real timesteps of the row with the most. All arguments must outlive this.
  Weights(const Inputs& inputs, const Kernels<Real>& kernels, Parallel& parallel, int64_t longest)
      : inputs_(inputs), problem_(inputs.problem), kernels_(kernels), parallel_(parallel), longest_(longest) {}

  // Of W; of a projected x there is none.
  int64_t kernel_rows() const { return problem_.projected ? 0 : problem_.input; }
  int64_t panels() const { return CeilDivide(problem_.units, kernels_.lanes); }
  int64_t width() const { return 4 * kernels_.lanes; }  // of a gate panel

  // Elements of memory that packing takes, for all directions. In place, only biases are packed.
  int64_t PackedSize(bool in_place) const;
  int64_t TransposedSize(bool in_place) const;

  // Pack into such memory, and have the directions, of which `in_place` is known, point to what they read.
  void Pack(Real* to, Direction<Real>* directions) const;
  void PackTransposed(Real* to, bool with_kernel, Direction<Real>* directions) const;

  // Elements of the gradients of one direction in one slot, and where they are in such memory.
  int64_t GradientSize() const;
  WeightGradient<Real> GradientAt(Real* sums, bool fresh) const;

  bool AllGradientsWanted(const BackwardOutput& output) const;
  // Those of a direction, where they are wanted themselves.
  WeightGradient<Real> GradientInPlace(const BackwardOutput& output, int direction, bool fresh) const;
  // Adds up those of all slots of a direction, which follow each other, into those that are wanted.
  void Unpack(Real* sums, int64_t slots, const BackwardOutput& output, int direction) const;

 private:
  // A matrix to pack, and where to.
  struct Packing {
    const void* matrix;
    int64_t rows;
    Real* packed;
  };

  // Whether any step multiplies a state by the recurrent kernel: a single step from no state does not.
  bool ReadsState(const DirectionInput& direction) const { return direction.h0 || longest_ > 1; }
  int64_t GatePanelsSize(int64_t rows) const { return rows * panels() * width(); }
  int64_t TransposedPanelsSize(int64_t columns) const;
  template <class PackPiece>
  void ForPieces(const std::vector<Packing>& packings, int64_t piece_rows, const PackPiece& pack) const;
  void UnpackMatrix(const Real* sums, int64_t slots, int64_t rows, void* to) const;

  const Inputs& inputs_;
  const Problem& problem_;
  const Kernels<Real>& kernels_;
  Parallel& parallel_;
  const int64_t longest_;
};

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_WEIGHTS_H_
