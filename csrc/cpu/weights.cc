#include "cpu/weights.h"

#include <algorithm>
#include <cstddef>

#include "cpu/cuts.h"
#include "cpu/tasks.h"

namespace lstm_fast {

template <class Real>
int64_t Weights<Real>::TransposedPanelsSize(int64_t columns) const {
  return CeilDivide(columns, kernels_.lanes) * kernels_.lanes * panels() * width();
}

template <class Real>
int64_t Weights<Real>::PackedSize(bool in_place) const {
  return problem_.directions * (in_place ? GatePanelsSize(1) : GradientSize());
}

template <class Real>
int64_t Weights<Real>::TransposedSize(bool in_place) const {
  if (in_place) return 0;
  return problem_.directions * (TransposedPanelsSize(kernel_rows()) + TransposedPanelsSize(problem_.units));
}

// Runs pack(packing, first), in parallel, for every first row of so many that are packed as one task.
template <class Real>
template <class PackPiece>
void Weights<Real>::ForPieces(const std::vector<Packing>& packings, int64_t piece_rows, const PackPiece& pack) const {
  struct Piece {
    const Packing* packing;
    int64_t first;
  };
  std::vector<Piece> pieces;
  for (const Packing& packing : packings) {
    for (int64_t first = 0; first < packing.rows; first += piece_rows) pieces.push_back({&packing, first});
  }
  const int64_t tasks = static_cast<int64_t>(pieces.size());
  // Moving an element costs about as much as 64 floating-point operations.
  const int64_t workers = Workers(parallel_.threads(), tasks, 64 * GradientSize());
  ForEach(parallel_, workers, tasks, [&](int64_t task, int64_t) {
    const Piece& piece = pieces[static_cast<size_t>(task)];
    pack(*piece.packing, piece.first);
  });
}

template <class Real>
void Weights<Real>::Pack(Real* to, Direction<Real>* directions) const {
  constexpr int64_t kRows = 32;
  std::vector<Packing> packings;
  const auto add = [&](const void* matrix, int64_t rows) {
    packings.push_back({matrix, rows, to});
    to += GatePanelsSize(rows);
    return packings.back().packed;
  };
  for (int n = 0; n < problem_.directions; ++n) {
    const DirectionInput& in = inputs_.direction[n];
    Direction<Real>& d = directions[n];
    d.bias = add(in.bias, 1);
    if (d.in_place) {
      d.kernel = static_cast<const Real*>(in.kernel);
      d.recurrent_kernel = static_cast<const Real*>(in.recurrent_kernel);
      continue;
    }
    d.kernel = add(in.kernel, kernel_rows());
    if (ReadsState(in)) d.recurrent_kernel = add(in.recurrent_kernel, problem_.units);
  }
  ForPieces(packings, kRows, [&](const Packing& packing, int64_t first) {
    kernels_.pack_gates(problem_.dtype, packing.matrix, packing.rows, first, std::min(packing.rows, first + kRows),
                        problem_.units, packing.packed);
  });
}

template <class Real>
void Weights<Real>::PackTransposed(Real* to, bool with_kernel, Direction<Real>* directions) const {
  std::vector<Packing> packings;
  const auto add = [&](const void* matrix, int64_t columns) {
    packings.push_back({matrix, columns, to});
    to += TransposedPanelsSize(columns);
    return packings.back().packed;
  };
  for (int n = 0; n < problem_.directions; ++n) {
    const DirectionInput& in = inputs_.direction[n];
    Direction<Real>& d = directions[n];
    if (d.in_place) {
      d.recurrent_kernel_transposed = static_cast<const Real*>(in.recurrent_kernel);
      d.kernel_transposed = static_cast<const Real*>(in.kernel);
      continue;
    }
    if (ReadsState(in) || d.dh0) d.recurrent_kernel_transposed = add(in.recurrent_kernel, problem_.units);
    if (with_kernel) d.kernel_transposed = add(in.kernel, kernel_rows());
  }
  ForPieces(packings, width(), [&](const Packing& packing, int64_t first) {
    kernels_.pack_transposed(problem_.dtype, packing.matrix, packing.rows, problem_.units, first / width(),
                             packing.packed + first * panels() * width());
  });
}

template <class Real>
int64_t Weights<Real>::GradientSize() const {
  return GatePanelsSize(kernel_rows() + problem_.units + 1);
}

template <class Real>
WeightGradient<Real> Weights<Real>::GradientAt(Real* sums, bool fresh) const {
  Real* recurrent_kernel = sums + GatePanelsSize(kernel_rows());
  return {sums, recurrent_kernel, recurrent_kernel + GatePanelsSize(problem_.units), fresh, false};
}

template <class Real>
bool Weights<Real>::AllGradientsWanted(const BackwardOutput& output) const {
  for (int n = 0; n < problem_.directions; ++n) {
    if (!output.drecurrent_kernel[n] || !output.dbias[n] || (kernel_rows() > 0 && !output.dkernel[n])) return false;
  }
  return true;
}

template <class Real>
WeightGradient<Real> Weights<Real>::GradientInPlace(const BackwardOutput& output, int direction, bool fresh) const {
  return {static_cast<Real*>(output.dkernel[direction]), static_cast<Real*>(output.drecurrent_kernel[direction]),
          static_cast<Real*>(output.dbias[direction]), fresh, true};
}

template <class Real>
void Weights<Real>::Unpack(Real* sums, int64_t slots, const BackwardOutput& output, int direction) const {
  const WeightGradient<Real> first = GradientAt(sums, false);
  UnpackMatrix(first.kernel, slots, kernel_rows(), output.dkernel[direction]);
  UnpackMatrix(first.recurrent_kernel, slots, problem_.units, output.drecurrent_kernel[direction]);
  UnpackMatrix(first.bias, slots, 1, output.dbias[direction]);
}

template <class Real>
void Weights<Real>::UnpackMatrix(const Real* sums, int64_t slots, int64_t rows, void* to) const {
  if (!to) return;
  constexpr int64_t kRows = 16;
  const int64_t tasks = CeilDivide(rows, kRows);
  const int64_t workers = Workers(parallel_.threads(), tasks, slots * GatePanelsSize(rows));
  ForEach(parallel_, workers, tasks, [&](int64_t task, int64_t) {
    kernels_.unpack_gates(problem_.dtype, sums, slots, GradientSize(), rows, task * kRows,
                          std::min(rows, (task + 1) * kRows), problem_.units, to);
  });
}

template class Weights<float>;
template class Weights<double>;

}  // namespace lstm_fast
