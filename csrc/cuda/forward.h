// The forward pass over whole sequences in one launch. In every timestep a warp multiplies h with the gates of its 8
// units, finishes them in registers, and passes the new h to all blocks of the group; then the group meets. In kernels
// of the split kind several warps share a sum, and the block's threads add their parts up before they finish the gates.
#ifndef LSTM_FAST_CUDA_FORWARD_H_
#define LSTM_FAST_CUDA_FORWARD_H_

#include <cstdint>
#include <cstring>

#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/group_pass.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/product.h"
#include "cuda/recurrence.h"
#include "cuda/rows.h"

namespace lstm_fast::cuda {

template <class Real>
LSTM_FAST_DEVICE Real Sigmoid(Real x) {
  return Reciprocal(Real(1) + Exp(-x));
}

template <class Policy, int kRegisters, bool kSplit, bool kDropout>
class ForwardPass
    : public GroupPass<ForwardPass<Policy, kRegisters, kSplit, kDropout>, ForwardCall, Policy, kRegisters> {
  using Base = GroupPass<ForwardPass, ForwardCall, Policy, kRegisters>;
  using Base::arguments_, Base::cells_, Base::cut_, Base::first_unit_, Base::fragments_, Base::group_, Base::inputs_,
      Base::jobs_, Base::kKept, Base::lane_, Base::layout_, Base::operand_, Base::plan_, Base::problem_, Base::rows_,
      Base::time_, Base::units_, Base::warp_;
  using typename Base::Element, typename Base::Operand, typename Base::Real;
  friend Base;

 public:
  LSTM_FAST_DEVICE explicit ForwardPass(const ForwardCall& call)
      : Base(call, ForwardLayout(Policy::kSizes, kRegisters, static_cast<int>(call.inputs.problem.units), call.cut,
                                 kDropout, kSplit)),
        gate_stride_(cut_.rows * layout_.operand_stride),
        split_shift_(HighestBit(static_cast<uint32_t>(cut_.splits))),
        in_block_(cut_.units),
        parts_(InShared<Real>(layout_.parts, layout_.part_size)),
        exchange_(InGlobal<Operand>(call.exchange)) {
    if (cut_.exchange == Exchange::kGrid) exchange_ += int64_t{group_.index} * 2 * layout_.operand_size;
  }

 private:
  static constexpr int kLaneRows = Policy::kLaneRows;

  // A unit of the block in one of its rows, for the thread that finishes its gates.
  struct Cell {
    GroupRow row;  // batch -1: there is none
    int r, in_block;
    Global<const Element> z;        // of the input gate at timestep 0
    Global<Element> y;              // likewise, or the place of the only output
    Global<unsigned char> reserve;  // likewise, of the gates
    Real bias[4];
    Real c;
  };

  // What a timestep computes for its cell, beside c.
  struct Computed {
    int32_t time;  // -1: nothing
    Real gates[4], h;
  };

  // What is loaded of a timestep: z.
  struct Loaded {
    int32_t time;  // -1: the row has no such timestep
    Element gate[4];
  };

  // Of a job: its 8 units in the block, and its piece of the sum.
  LSTM_FAST_DEVICE int UnitOfJob(int job) const {
    const int index = warp_ + job * cut_.warps;
    return (kSplit ? index >> split_shift_ : index) * kWarpUnits;
  }
  LSTM_FAST_DEVICE int SplitOfJob(int job) const { return kSplit ? (warp_ + job * cut_.warps) & (cut_.splits - 1) : 0; }
  LSTM_FAST_DEVICE int FirstTerm(int job) const { return SplitOfJob(job) * layout_.slices * Policy::kSizes.depth; }

  // The transposed recurrent kernel in fragments, from global memory.
  LSTM_FAST_DEVICE auto ReaderOf(const RowSet& set) const {
    const Global<const Element> kernel = InGlobal<const Element>(inputs_.direction[set.direction].recurrent_kernel);
    return [this, kernel](int job, int f) {
      const int first = first_unit_ + UnitOfJob(job), fragment = f % Policy::kFragments;
      const auto at = [&](int m, int k) {
        const GateUnit row = Policy::ForwardRow(fragment, m);
        const int unit = first + row.unit;
        return k < units_ && unit < units_ ? Real(ToReal(kernel[(int64_t{k} * 4 + row.gate) * units_ + unit]))
                                           : Real(0);
      };
      return Policy::Fragment(at, lane_, FirstTerm(job) + f / Policy::kFragments * Policy::kSizes.depth);
    };
  }

  LSTM_FAST_DEVICE void RunSet(const RowSet& set) {
    const int longest = LoadRows(set, cut_, problem_, plan_, rows_);
    SyncBlock();
    Begin(set);
    if constexpr (kSplit) {
      RunSplit(set, longest);
    } else {
      RunWhole(set, longest);
    }
  }

  // A warp finishes the gates that it computes. With one job only it keeps its cells, and loads z two steps ahead.
  LSTM_FAST_DEVICE void RunWhole(const RowSet& set, int longest) {
    const bool keeps = jobs_ <= 1 && cut_.rows == Policy::kRows;
    Cell cells[kLaneRows]{};
    Loaded next[kLaneRows]{}, after_next[kLaneRows]{};
    const auto find = [&](int first_row, int job) {
      LSTM_FAST_UNROLL
      for (int i = 0; i < kLaneRows; ++i) {
        const int r = Policy::RowOf(i, lane_.t);
        Find(set, first_row + r, UnitOfJob(job) + lane_.g, r < Policy::kRows && job < jobs_, cells[i]);
      }
    };
    const auto load = [&](int k, Loaded(&loaded)[kLaneRows]) {
      LSTM_FAST_UNROLL
      for (int i = 0; i < kLaneRows; ++i) Load(set, cells[i], k, loaded[i]);
    };
    if (keeps) {
      find(0, 0);
      load(0, next);
      load(1, after_next);
    }
    for (int k = 0; k < longest; ++k) {
      if (cut_.exchange == Exchange::kGrid && k > 0) Receive(k);
      Computed computed[kLaneRows]{};
      for (int first_row = 0; first_row < cut_.rows; first_row += Policy::kRows) {
        for (int job = 0; job < jobs_; ++job) {
          if (!keeps) {
            find(first_row, job);
            load(k, next);
          }
          Real gates[kLaneRows][4];
          LSTM_FAST_UNROLL
          for (int i = 0; i < kLaneRows; ++i) {
            computed[i].time = next[i].time;
            AddBias(cells[i], next[i], gates[i]);
            next[i] = after_next[i];
          }
          if (keeps) load(k + 2, after_next);
          const Gates<Real, kLaneRows> product = Multiply(set, k, first_row, job);
          LSTM_FAST_UNROLL
          for (int i = 0; i < kLaneRows; ++i) {
            if (computed[i].time < 0) continue;
            LSTM_FAST_UNROLL
            for (int q = 0; q < 4; ++q) gates[i][q] += product.value[q][i];
            Finish(set, k, gates[i], cells[i], computed[i]);
            if (keeps) continue;
            cells_[PlaceOf(cells[i])] = cells[i].c;
            Write(set, k, cells[i], computed[i]);
          }
        }
      }
      group_.Arrive();
      if (keeps) {
        LSTM_FAST_UNROLL
        for (int i = 0; i < kLaneRows; ++i) {
          if (jobs_ > 0 && computed[i].time >= 0) Write(set, k, cells[i], computed[i]);
        }
      }
      group_.Await();
    }
  }

  // Warps leave their parts of the gates in shared memory, and threads add them up and finish them.
  LSTM_FAST_DEVICE void RunSplit(const RowSet& set, int longest) {
    const int size = cut_.rows * cut_.units;
    const auto find = [&](int i, Cell& cell) {
      const int r = in_block_.Quotient(i);
      Find(set, r, i - r * cut_.units, i < size, cell);
    };
    const int stride = layout_.part_stride, of_gate = cut_.rows * stride;
    const auto finish = [&](int k, const Loaded& next, Cell& cell, Computed& computed) {
      computed.time = next.time;
      if (next.time < 0) return;
      Real gates[4];
      AddBias(cell, next, gates);
      const Shared<const Real> of_cell = parts_ + (cell.r * stride + cell.in_block);
      constexpr int kAtOnce = 4;  // loads under way at once
      for (int first = 0; first < cut_.splits; first += kAtOnce) {
        Real parts[kAtOnce][4];
        LSTM_FAST_UNROLL
        for (int j = 0; j < kAtOnce; ++j) {
          LSTM_FAST_UNROLL
          for (int q = 0; q < 4; ++q) {
            parts[j][q] = first + j < cut_.splits ? Real(of_cell[((first + j) * 4 + q) * of_gate]) : Real(0);
          }
        }
        LSTM_FAST_UNROLL
        for (int q = 0; q < 4; ++q) gates[q] += (parts[0][q] + parts[1][q]) + (parts[2][q] + parts[3][q]);
      }
      Finish(set, k, gates, cell, computed);
    };
    Cell cells[kKept]{};
    Loaded next[kKept]{}, after_next[kKept]{};
    LSTM_FAST_UNROLL
    for (int n = 0; n < kKept; ++n) {
      find(Thread() + n * Threads(), cells[n]);
      Load(set, cells[n], 0, next[n]);
      Load(set, cells[n], 1, after_next[n]);
    }
    for (int k = 0; k < longest; ++k) {
      if (cut_.exchange == Exchange::kGrid && k > 0) Receive(k);
      for (int first_row = 0; first_row < cut_.rows; first_row += Policy::kRows) {
        for (int job = 0; job < jobs_; ++job) {
          const Gates<Real, kLaneRows> product = Multiply(set, k, first_row, job);
          const int first = SplitOfJob(job) * 4 * of_gate + first_row * stride + UnitOfJob(job) + lane_.g;
          LSTM_FAST_UNROLL
          for (int i = 0; i < kLaneRows; ++i) {
            const int r = Policy::RowOf(i, lane_.t);
            if (r >= Policy::kRows) continue;
            LSTM_FAST_UNROLL
            for (int q = 0; q < 4; ++q) parts_[first + q * of_gate + r * stride] = product.value[q][i];
          }
        }
      }
      SyncBlock();
      Computed computed[kKept]{};
      LSTM_FAST_UNROLL
      for (int n = 0; n < kKept; ++n) finish(k, next[n], cells[n], computed[n]);
      for (int i = Thread() + kKept * Threads(); i < size; i += Threads()) {
        Cell cell{};
        find(i, cell);
        Loaded loaded{};
        Load(set, cell, k, loaded);
        Computed of_cell{};
        finish(k, loaded, cell, of_cell);
        if (of_cell.time < 0) continue;
        cells_[i] = cell.c;
        Write(set, k, cell, of_cell);
      }
      group_.Arrive();
      LSTM_FAST_UNROLL
      for (int n = 0; n < kKept; ++n) {
        if (computed[n].time >= 0) Write(set, k, cells[n], computed[n]);
        next[n] = after_next[n];
        Load(set, cells[n], k + 2, after_next[n]);
      }
      group_.Await();
    }
  }

  // States before the first timestep: every block has all of h, and its own units of c.
  LSTM_FAST_DEVICE void Begin(const RowSet& set) {
    const DirectionInput& d = inputs_.direction[set.direction];
    const Global<const Element> h0 = InGlobal<const Element>(d.h0), c0 = InGlobal<const Element>(d.c0);
    const int stride = layout_.operand_stride;
    for (int i = Thread(); i < layout_.operand_size * layout_.operand_buffers; i += Threads()) {
      const int column = i % stride, r = i / stride % cut_.rows, gate = i / gate_stride_ % 4;
      const GroupRow row = rows_[r];
      Real h = 0;
      if (!IsNull(h0) && i < layout_.operand_size && row.batch >= 0 && column < units_) {
        h = ToReal(h0[int64_t{row.batch} * units_ + column]);
        if constexpr (kDropout) h *= Multiplier(set, gate, row, column);
      }
      operand_[i] = Policy::ToOperand(h);
    }
    for (int i = Thread(); i < cut_.rows * cut_.units; i += Threads()) {
      const GroupRow row = rows_[i / cut_.units];
      const int unit = first_unit_ + i % cut_.units;
      const bool exists = row.batch >= 0 && unit < units_;
      const int64_t at = int64_t{row.batch} * units_ + unit;
      const Real c = exists && !IsNull(c0) ? Real(ToReal(c0[at])) : Real(0);
      cells_[i] = c;
      if (exists && row.count == 0) {  // no timestep will write its results
        const Real h = IsNull(h0) ? Real(0) : Real(ToReal(h0[at]));
        WriteStates(set, at, h, c);
        if (!problem_.return_sequences) WriteLast(set, row, unit, Real(0));
      }
    }
    if (cut_.exchange == Exchange::kGrid) {  // columns of padding are zero
      for (int i = group_.rank * Threads() + Thread(); i < 2 * layout_.operand_size; i += cut_.blocks * Threads()) {
        StoreL2(exchange_ + i, Policy::ToOperand(0));
      }
    }
    // Also: no block of a cluster writes to another that has not begun, or that is not done with its last set.
    group_.Sync();
  }

  // Gets h from the other blocks of the group, through L2.
  LSTM_FAST_DEVICE void Receive(int k) {
    const Global<const Words> from = Cast<const Words>(exchange_ + k % 2 * layout_.operand_size);
    const Shared<Words> to = Cast<Words>(operand_);
    const int count = layout_.operand_size * static_cast<int>(sizeof(Operand)) / static_cast<int>(sizeof(Words));
    constexpr int kAtOnce = kRegisters > 16 ? 8 : 4;  // loads under way at once
    for (int first = Thread(); first < count; first += kAtOnce * Threads()) {
      Words words[kAtOnce];
      LSTM_FAST_UNROLL
      for (int j = 0; j < kAtOnce; ++j) {
        const int i = first + j * Threads();
        words[j] = i < count ? LoadL2<Words>(from + i) : Words{};
      }
      LSTM_FAST_UNROLL
      for (int j = 0; j < kAtOnce; ++j) {
        if (const int i = first + j * Threads(); i < count) to[i] = words[j];
      }
    }
    SyncBlock();
  }

  LSTM_FAST_DEVICE int PlaceOf(const Cell& cell) const { return cell.r * cut_.units + cell.in_block; }

  LSTM_FAST_DEVICE void Find(const RowSet& set, int r, int in_block, bool exists, Cell& cell) const {
    const int unit = first_unit_ + in_block, n = set.direction;
    exists = exists && unit < units_;
    cell.row = exists ? GroupRow(rows_[r]) : GroupRow{-1, 0, 0};
    if (cell.row.count == 0) return;  // also where there is no row
    cell.r = r;
    cell.in_block = in_block;
    const int64_t batch = cell.row.batch, sequence = batch * time_, all_units = problem_.directions * units_;
    cell.z = InGlobal<const Element>(arguments_.z) + (sequence * all_units * 4 + n * 4 * int64_t{units_} + unit);
    cell.y = InGlobal<Element>(arguments_.y) +
             ((problem_.return_sequences ? sequence : batch) * all_units + n * int64_t{units_} + unit);
    if (arguments_.reserve) {
      cell.reserve = InGlobal<unsigned char>(arguments_.reserve) +
                     ((batch * problem_.directions + n) * time_ * arguments_.reserve_step_bytes +
                      4 * int64_t{unit} * int64_t{sizeof(Real)});
    }
    const Global<const Element> bias = InGlobal<const Element>(inputs_.direction[n].bias);
    LSTM_FAST_UNROLL
    for (int q = 0; q < 4; ++q) cell.bias[q] = IsNull(bias) ? Real(0) : Real(ToReal(bias[q * units_ + unit]));
    cell.c = cells_[PlaceOf(cell)];
  }

  LSTM_FAST_DEVICE void Load(const RowSet& set, const Cell& cell, int k, Loaded& loaded) const {
    loaded.time = -1;
    if (k >= cell.row.count) return;  // also where there is no row
    loaded.time = TimeOf(cell.row, k, set.reversed, time_, InGlobal<const int32_t>(plan_.steps));
    const Global<const Element> z = cell.z + int64_t{loaded.time} * (problem_.directions * 4 * units_);
    LSTM_FAST_UNROLL
    for (int q = 0; q < 4; ++q) loaded.gate[q] = z[int64_t{q} * units_];
  }

  LSTM_FAST_DEVICE void AddBias(const Cell& cell, const Loaded& loaded, Real (&gates)[4]) const {
    LSTM_FAST_UNROLL
    for (int q = 0; q < 4; ++q) gates[q] = Real(ToReal(loaded.gate[q])) + cell.bias[q];
  }

  // The product of a job for the rows of a round, from first_row on.
  LSTM_FAST_DEVICE Gates<Real, kLaneRows> Multiply(const RowSet& set, int k, int first_row, int job) const {
    typename Policy::Sums sums[Policy::kFragments][2] = {};
    const Shared<const Operand> h = operand_ + (ReadBuffer(k) + first_row * layout_.operand_stride + FirstTerm(job));
    MultiplyJob<Policy::kFragments, kDropout>(fragments_, ReaderOf(set), job, layout_.slices, h, layout_.operand_stride,
                                              gate_stride_, lane_, sums);
    return Policy::Finish(sums, lane_, kDropout);
  }

  // The rest of a timestep for a cell: from its gates before their functions to what the other blocks need.
  LSTM_FAST_DEVICE void Finish(const RowSet& set, int k, const Real (&gate)[4], Cell& cell, Computed& computed) {
    const Real in = Sigmoid(gate[0]), forget = Sigmoid(gate[1]), candidate = Tanh(gate[2]), out = Sigmoid(gate[3]);
    cell.c = MultiplyAdd(forget, cell.c, in * candidate);
    computed.h = out * Tanh(cell.c);
    if (k + 1 < cell.row.count) Send(set, cell, k, computed.h);
    const Real gates[4] = {in, forget, candidate, out};
    LSTM_FAST_UNROLL
    for (int q = 0; q < 4; ++q) computed.gates[q] = gates[q];
  }

  LSTM_FAST_DEVICE int ReadBuffer(int k) const {
    return cut_.exchange == Exchange::kGrid ? 0 : k % 2 * layout_.operand_size;
  }

  LSTM_FAST_DEVICE Real Multiplier(const RowSet& set, int gate, const GroupRow& row, int64_t unit) const {
    const Global<const Element> dropout = InGlobal<const Element>(inputs_.direction[set.direction].recurrent_dropout);
    return ToReal(dropout[(gate * problem_.batch + row.batch) * units_ + unit]);
  }

  // Passes a new h to every block of the group, for the next timestep.
  LSTM_FAST_DEVICE void Send(const RowSet& set, const Cell& cell, int k, Real h) {
    const int unit = first_unit_ + cell.in_block;
    LSTM_FAST_UNROLL
    for (int q = 0; q < (kDropout ? 4 : 1); ++q) {
      Real value = h;
      if constexpr (kDropout) value *= Multiplier(set, q, cell.row, unit);
      const Operand operand = Policy::ToOperand(value);
      const int at = (k + 1) % 2 * layout_.operand_size + q * gate_stride_ + cell.r * layout_.operand_stride + unit;
      switch (cut_.exchange) {
        case Exchange::kBlock:
          operand_[at] = operand;
          break;
        case Exchange::kCluster:
          for (int rank = 0; rank < cut_.blocks; ++rank) Remote(operand_, rank)[at] = operand;
          break;
        case Exchange::kGrid:
          StoreL2(exchange_ + at, operand);
          break;
      }
    }
  }

  // What is for others than the group: the reserve and the outputs.
  LSTM_FAST_DEVICE void Write(const RowSet& set, int k, const Cell& cell, const Computed& computed) const {
    const int unit = first_unit_ + cell.in_block;
    if (arguments_.reserve) {
      const Global<Real> entry =
          Cast<Real>(cell.reserve + int64_t{computed.time} * static_cast<int>(arguments_.reserve_step_bytes));
      constexpr int kWords = 4 * sizeof(Real) / sizeof(Words);
      Words words[kWords];
      memcpy(words, computed.gates, sizeof words);
      const Global<Words> to = Cast<Words>(entry);
      LSTM_FAST_UNROLL
      for (int i = 0; i < kWords; ++i) to[i] = words[i];
      entry[4 * units_ - 3 * unit] = cell.c;
    }
    const bool last = k == cell.row.count - 1;
    if (problem_.return_sequences) {
      const int place = OutputPlace(computed.time, problem_);
      cell.y[int64_t{place} * (problem_.directions * units_)] = Rounded<Element>(computed.h);
    } else if (last) {
      const bool padded = computed.time != (set.reversed ? 0 : time_ - 1);
      *cell.y = Rounded<Element>(padded && problem_.zero_output_for_mask ? Real(0) : computed.h);
    }
    if (last) WriteStates(set, int64_t{cell.row.batch} * units_ + unit, computed.h, cell.c);
  }

  LSTM_FAST_DEVICE void WriteLast(const RowSet& set, const GroupRow& row, int unit, Real h) const {
    InGlobal<Element>(arguments_.y)[(int64_t{row.batch} * problem_.directions + set.direction) * units_ + unit] =
        Rounded<Element>(h);
  }

  LSTM_FAST_DEVICE void WriteStates(const RowSet& set, int64_t at, Real h, Real c) const {
    InGlobal<Element>(arguments_.h_n[set.direction])[at] = Rounded<Element>(h);
    InGlobal<Element>(arguments_.c_n[set.direction])[at] = Rounded<Element>(c);
  }

  const int gate_stride_;
  const int split_shift_;   // cut_.splits is a power of two
  const Divisor in_block_;  // of a place in [rows][units of the block]
  Shared<Real> parts_;
  Global<Operand> exchange_;
};

template <class Policy, int kRegisters, bool kSplit, bool kDropout, int kMostThreads>
LSTM_FAST_KERNEL void LSTM_FAST_BOUNDS(kMostThreads, 1) RunForward(LSTM_FAST_ARGUMENT ForwardCall call) {
  if constexpr (kIsCompiled<Policy>) ForwardPass<Policy, kRegisters, kSplit, kDropout>(call).Run();
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_FORWARD_H_
