// The backward pass over whole sequences in one launch. In every timestep, last to first, the threads of a block turn
// dh and dc of its units into dz; the product of dz with the block's share of the recurrent kernel is its part of the
// sum that is dh of all units one timestep earlier, and goes to the blocks that own these; then the group meets. The
// parts are added in a fixed order.
#ifndef LSTM_FAST_CUDA_BACKWARD_H_
#define LSTM_FAST_CUDA_BACKWARD_H_

#include <cstdint>
#include <cstring>

#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/group_pass.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/output_gradient.h"
#include "cuda/product.h"
#include "cuda/recurrence.h"
#include "cuda/rows.h"

namespace lstm_fast::cuda {

template <class Policy, int kRegisters, bool kDropout>
class BackwardPass : public GroupPass<BackwardPass<Policy, kRegisters, kDropout>, BackwardCall, Policy, kRegisters> {
  using Base = GroupPass<BackwardPass, BackwardCall, Policy, kRegisters>;
  using Base::arguments_, Base::cells_, Base::cut_, Base::first_unit_, Base::fragments_, Base::group_, Base::inputs_,
      Base::jobs_, Base::kKept, Base::lane_, Base::layout_, Base::operand_, Base::plan_, Base::problem_, Base::rows_,
      Base::time_, Base::units_, Base::warp_;
  using typename Base::Element, typename Base::Real;
  friend Base;

 public:
  LSTM_FAST_DEVICE explicit BackwardPass(const BackwardCall& call)
      : Base(call, BackwardLayout(Policy::kSizes, kRegisters, static_cast<int>(call.inputs.problem.units), call.cut)),
        sources_(cut_.blocks * cut_.splits),
        split_shift_(HighestBit(static_cast<uint32_t>(cut_.splits))),
        in_block_(cut_.units),
        call_(call),
        parts_(InShared<Real>(layout_.parts, cut_.exchange == Exchange::kGrid ? 0 : 2 * layout_.part_size)),
        exchange_(InGlobal<Real>(call.exchange)) {
    if (cut_.exchange == Exchange::kGrid) exchange_ += int64_t{group_.index} * 2 * cut_.blocks * layout_.part_size;
  }

 private:
  // A unit of the block in one of its rows.
  struct Cell {
    GroupRow row;  // batch -1: there is none
    int r, in_block;
    Global<const unsigned char> reserve;  // at timestep 0, of the gates
    Global<const Element> dy;             // likewise, or the only one
    Global<Element> dz, h_prev;           // likewise; dz of the input gate
    Real dc;                              // what the timestep after has left
    Real tanh_c;                          // of the cell state, once it is known
  };

  // What is loaded of a timestep: what the forward pass kept of it, and the gradient of the outputs it has determined.
  struct Loaded {
    Real in, forget, candidate, out, c, dy;
    int32_t time;  // -1: the row has no such timestep
  };

  // What a timestep computes for its cell.
  struct Computed {
    Real dz[4], h_prev;
  };

  LSTM_FAST_DEVICE int UnitOf(const Cell& cell) const { return first_unit_ + cell.in_block; }
  LSTM_FAST_DEVICE int64_t StateOf(const Cell& cell) const { return int64_t{cell.row.batch} * units_ + UnitOf(cell); }

  LSTM_FAST_DEVICE void Find(const RowSet& set, int i, Cell& cell) const {
    cell.r = in_block_.Quotient(i);
    cell.in_block = i - cell.r * cut_.units;
    const int unit = UnitOf(cell), n = set.direction;
    const bool exists = i < cut_.rows * cut_.units && unit < units_;
    cell.row = exists ? GroupRow(rows_[cell.r]) : GroupRow{-1, 0, 0};
    if (cell.row.count == 0) return;  // also where there is no row
    const int64_t batch = cell.row.batch, sequence = batch * time_;
    const int64_t all_units = problem_.directions * units_, column = n * int64_t{units_} + unit;
    cell.reserve = InGlobal<const unsigned char>(arguments_.reserve) +
                   ((batch * problem_.directions + n) * time_ * arguments_.reserve_step_bytes +
                    4 * int64_t{unit} * int64_t{sizeof(Real)});
    if (arguments_.dy) {
      cell.dy = InGlobal<const Element>(arguments_.dy) +
                ((problem_.return_sequences ? sequence : batch) * all_units + column);
    }
    cell.dz = InGlobal<Element>(arguments_.dz) + (sequence * all_units * 4 + n * 4 * int64_t{units_} + unit);
    if (arguments_.h_prev) cell.h_prev = InGlobal<Element>(arguments_.h_prev) + (sequence * all_units + column);
  }

  LSTM_FAST_DEVICE auto ReaderOf(const RowSet& set) const {
    const Global<const Element> kernel = InGlobal<const Element>(inputs_.direction[set.direction].recurrent_kernel);
    return [this, kernel](int job, int f) {
      const int index = warp_ + job * cut_.warps;
      const int first = (index >> split_shift_) * Policy::kSizes.backward_units;
      const int begin = ((index & (cut_.splits - 1)) * layout_.slices + f) * Policy::kSizes.depth;
      const auto at = [&](int m, int k) {
        const int gate = k / layout_.gate_terms, in_block = k % layout_.gate_terms;
        const int unit = first_unit_ + in_block;
        const bool exists = first + m < units_ && in_block < cut_.units && unit < units_;
        return exists ? Real(ToReal(kernel[(int64_t{first + m} * 4 + gate) * units_ + unit])) : Real(0);
      };
      return Policy::Fragment(at, lane_, begin);
    };
  }

  LSTM_FAST_DEVICE void RunSet(const RowSet& set) {
    const int longest = LoadRows(set, cut_, problem_, plan_, rows_);
    for (int i = Thread(); i < layout_.operand_size; i += Threads()) operand_[i] = Policy::ToOperand(0);
    // Also: no block of a cluster writes to another that has not begun, or that is not done with its last set.
    group_.Sync();
    const int size = cut_.rows * cut_.units;
    Cell cells[kKept]{};
    Loaded now[kKept]{}, before[kKept]{};
    LSTM_FAST_UNROLL
    for (int n = 0; n < kKept; ++n) {
      Find(set, Thread() + n * Threads(), cells[n]);
      Load(set, cells[n], longest - 1, now[n]);
      Load(set, cells[n], longest - 2, before[n]);
    }
    for (int k = longest - 1; k >= 0; --k) {
      Computed computed[kKept] = {};
      LSTM_FAST_UNROLL
      for (int n = 0; n < kKept; ++n) Differentiate(set, k, now[n], before[n], cells[n], computed[n]);
      for (int i = Thread() + kKept * Threads(); i < size; i += Threads()) {
        Cell cell{};
        Find(set, i, cell);
        Loaded of_step{}, of_step_before{};
        Load(set, cell, k, of_step);
        if (of_step.time < 0) continue;
        cell.dc = cells_[i];
        cell.tanh_c = Tanh(of_step.c);
        Computed of_cell{};
        Load(set, cell, k - 1, of_step_before);
        Differentiate(set, k, of_step, of_step_before, cell, of_cell);
        Write(cell, of_step.time, of_cell);
        cells_[i] = cell.dc;
      }
      SyncBlock();
      int32_t times[kKept];
      LSTM_FAST_UNROLL
      for (int n = 0; n < kKept; ++n) {
        times[n] = now[n].time;
        now[n] = before[n];
        Load(set, cells[n], k - 2, before[n]);
      }
      for (int first_row = 0; first_row < cut_.rows; first_row += Policy::kRows) {
        for (int job = 0; job < jobs_; ++job) Multiply(set, k, first_row, job);
      }
      group_.Arrive();
      LSTM_FAST_UNROLL
      for (int n = 0; n < kKept; ++n) {
        if (times[n] >= 0) Write(cells[n], times[n], computed[n]);
      }
      group_.Await();
    }
    LSTM_FAST_UNROLL
    for (int n = 0; n < kKept; ++n) Finish(set, cells[n]);
    for (int i = Thread() + kKept * Threads(); i < size; i += Threads()) {
      Cell cell{};
      Find(set, i, cell);
      if (cell.row.batch >= 0) cell.dc = cells_[i];
      Finish(set, cell);
    }
    SyncBlock();  // before the rows are replaced
  }

  LSTM_FAST_DEVICE int32_t TimeOfStep(const RowSet& set, const GroupRow& row, int k) const {
    return TimeOf(row, k, set.reversed, time_, InGlobal<const int32_t>(plan_.steps));
  }

  LSTM_FAST_DEVICE void Load(const RowSet& set, const Cell& cell, int k, Loaded& loaded) const {
    loaded.time = -1;
    if (k < 0 || k >= cell.row.count) return;  // also where there is no row
    loaded.time = TimeOfStep(set, cell.row, k);
    const Global<const Real> entry =
        Cast<const Real>(cell.reserve + int64_t{loaded.time} * static_cast<int>(arguments_.reserve_step_bytes));
    constexpr int kWords = 4 * sizeof(Real) / sizeof(Words);
    const Global<const Words> from = Cast<const Words>(entry);
    Words words[kWords];
    LSTM_FAST_UNROLL
    for (int i = 0; i < kWords; ++i) words[i] = from[i];
    Real gates[4];
    memcpy(gates, words, sizeof gates);
    loaded.in = gates[0];
    loaded.forget = gates[1];
    loaded.candidate = gates[2];
    loaded.out = gates[3];
    loaded.c = entry[4 * units_ - 3 * UnitOf(cell)];
    loaded.dy = OutputGradient(set, cell, k, loaded.time);
  }

  // The gradient of the outputs that timestep k has determined.
  LSTM_FAST_DEVICE Real OutputGradient(const RowSet& set, const Cell& cell, int k, int time) const {
    if (IsNull(cell.dy)) return 0;
    if (!problem_.return_sequences) {
      return k == cell.row.count - 1 ? OnlyOutputGradient(call_, set, cell.dy, time) : Real(0);
    }
    const Real own = ToReal(cell.dy[int64_t{OutputPlace(time, problem_)} * (problem_.directions * units_)]);
    return own + CarriedGradient(call_, set, cell.row, UnitOf(cell), k, time, cell.dy);
  }

  LSTM_FAST_DEVICE Real Given(const void* array, int64_t at) const {
    const Global<const Element> given = InGlobal<const Element>(array);
    return IsNull(given) ? Real(0) : Real(ToReal(given[at]));
  }

  // One timestep of a cell, which has a timestep `now`: dz, for the products and to be written, and dc of the timestep
  // before. What does not wait for other blocks comes first.
  LSTM_FAST_DEVICE void Differentiate(const RowSet& set, int k, const Loaded& now, const Loaded& before, Cell& cell,
                                      Computed& computed) {
    if (now.time < 0) return;
    const int n = set.direction;
    const int64_t state = StateOf(cell);
    const bool last = k == cell.row.count - 1;
    if (last) {
      cell.tanh_c = Tanh(now.c);
      cell.dc = Given(arguments_.dc_n[n], state);
    }
    const Real c_before = k > 0 ? before.c : Given(inputs_.direction[n].c0, state);
    const Real tanh_before = k > 0 ? Tanh(before.c) : Real(0);
    const Real of_dh = now.out * (1 - cell.tanh_c * cell.tanh_c);
    const Real of_dc[3] = {now.candidate * now.in * (1 - now.in), c_before * now.forget * (1 - now.forget),
                           now.in * (1 - now.candidate * now.candidate)};
    const Real of_out = cell.tanh_c * now.out * (1 - now.out);
    if (arguments_.h_prev) {
      computed.h_prev = k > 0 ? before.out * tanh_before : Given(inputs_.direction[n].h0, state);
    }
    cell.tanh_c = tanh_before;
    const Real dh = (last ? Given(arguments_.dh_n[n], state) : Sum(set, cell, k)) + now.dy;
    const Real dc = MultiplyAdd(dh, of_dh, cell.dc);
    cell.dc = dc * now.forget;
    LSTM_FAST_UNROLL
    for (int q = 0; q < 3; ++q) computed.dz[q] = dc * of_dc[q];
    computed.dz[3] = dh * of_out;
    const int place = cell.r * layout_.operand_stride + cell.in_block;
    LSTM_FAST_UNROLL
    for (int q = 0; q < 4; ++q) operand_[place + q * layout_.gate_terms] = Policy::ToOperand(computed.dz[q]);
  }

  LSTM_FAST_DEVICE void Write(const Cell& cell, int32_t time, const Computed& computed) const {
    const int features = problem_.directions * units_;
    const Global<Element> dz = cell.dz + int64_t{time} * (4 * features);
    LSTM_FAST_UNROLL
    for (int q = 0; q < 4; ++q) dz[int64_t{q} * units_] = Rounded<Element>(computed.dz[q]);
    if (arguments_.h_prev) cell.h_prev[int64_t{time} * features] = Rounded<Element>(computed.h_prev);
  }

  // The product of a job: a part of dh before timestep k, for the rows of a round, from first_row on.
  LSTM_FAST_DEVICE void Multiply(const RowSet& set, int k, int first_row, int job) {
    const int index = warp_ + job * cut_.warps;
    const int split = index & (cut_.splits - 1);
    typename Policy::Sums sums[1][2] = {};
    const Shared<const typename Policy::Operand> dz =
        operand_ + (first_row * layout_.operand_stride + split * layout_.slices * Policy::kSizes.depth);
    MultiplyJob<1, false>(fragments_, ReaderOf(set), job, layout_.slices, dz, layout_.operand_stride, 0, lane_, sums);
    const int first = (index >> split_shift_) * Policy::kSizes.backward_units;
    const int source = group_.rank * cut_.splits + split;
    const int begin = k % 2 * layout_.part_size + (source * cut_.rows + first_row) * layout_.part_stride;
    Policy::ForEach(sums[0][0], lane_, [&](int m, int r, Real value) {
      const int unit = first + m;
      if (unit >= units_) return;
      const int owner = in_block_.Quotient(unit);
      const int at = begin + r * layout_.part_stride + unit - owner * cut_.units;
      switch (cut_.exchange) {
        case Exchange::kBlock:
          parts_[at] = value;
          break;
        case Exchange::kCluster:
          Remote(parts_, owner)[at] = value;
          break;
        case Exchange::kGrid:
          StoreL2(exchange_ + (int64_t{owner} * 2 * layout_.part_size + at), value);
          break;
      }
    });
  }

  // dh after timestep k, without what the output adds: what all blocks computed in timestep k + 1.
  LSTM_FAST_DEVICE Real Sum(const RowSet& set, const Cell& cell, int k) const {
    const int size = cut_.rows * layout_.part_stride;
    const int begin = (k + 1) % 2 * layout_.part_size + cell.r * layout_.part_stride + cell.in_block;
    Real sums[4] = {};  // by gate, where recurrent dropout gives every gate its own multiplier
    if (cut_.exchange == Exchange::kGrid) {
      const Global<const Real> from = exchange_ + (int64_t{group_.rank} * 2 * layout_.part_size + begin);
      AddParts<(kRegisters > 16 ? 16 : 8)>([&](int source) { return LoadL2<Real>(from + int64_t{source} * size); },
                                           sums);
    } else {
      AddParts<4>([&](int source) { return Real(parts_[begin + source * size]); }, sums);
    }
    if constexpr (kDropout) {  // a source's splits are its gates
      const Global<const Element> dropout = InGlobal<const Element>(inputs_.direction[set.direction].recurrent_dropout);
      LSTM_FAST_UNROLL
      for (int q = 0; q < 4; ++q) {
        sums[q] *= ToReal(dropout[(q * problem_.batch + cell.row.batch) * units_ + UnitOf(cell)]);
      }
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  // Adds the parts of all sources, of which so many are under way at once, by turns to four sums.
  template <int kAtOnce, class Part>
  LSTM_FAST_DEVICE void AddParts(const Part& part, Real (&sums)[4]) const {
    for (int first = 0; first < sources_; first += kAtOnce) {
      Real parts[kAtOnce];
      LSTM_FAST_UNROLL
      for (int j = 0; j < kAtOnce; ++j) parts[j] = first + j < sources_ ? part(first + j) : Real(0);
      LSTM_FAST_UNROLL
      for (int j = 0; j < kAtOnce; ++j) sums[j % 4] += parts[j];
    }
  }

  // Gradients of the states before the first timestep.
  LSTM_FAST_DEVICE void Finish(const RowSet& set, const Cell& cell) const {
    if (cell.row.batch < 0) return;
    const int n = set.direction;
    const int64_t state = StateOf(cell);
    const bool ran = cell.row.count > 0;
    InGlobal<Element>(arguments_.dh0[n])[state] =
        Rounded<Element>(ran ? Sum(set, cell, -1) : Given(arguments_.dh_n[n], state));
    InGlobal<Element>(arguments_.dc0[n])[state] = Rounded<Element>(ran ? cell.dc : Given(arguments_.dc_n[n], state));
  }

  const int sources_;
  const int split_shift_;   // cut_.splits is a power of two
  const Divisor in_block_;  // of a place in [rows][units of the block], and the block of a unit
  const BackwardCall& call_;
  Shared<Real> parts_;
  Global<Real> exchange_;
};

template <class Policy, int kRegisters, bool kDropout, int kMostThreads>
LSTM_FAST_KERNEL void LSTM_FAST_BOUNDS(kMostThreads, 1) RunBackward(LSTM_FAST_ARGUMENT BackwardCall call) {
  if constexpr (kIsCompiled<Policy>) BackwardPass<Policy, kRegisters, kDropout>(call).Run();
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_BACKWARD_H_
