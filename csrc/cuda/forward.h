// The forward pass over whole sequences in one launch. In every timestep a warp multiplies h with the gates of its 8
// units, finishes them in registers, and passes the new h to all blocks of the group; then the group meets. In kernels
// of the split kind several warps share a sum, and the block's threads add their parts up before they finish the gates.
#ifndef LSTM_FAST_CUDA_FORWARD_H_
#define LSTM_FAST_CUDA_FORWARD_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/group.h"
#include "cuda/layout.h"
#include "cuda/pass.h"
#include "cuda/product.h"

namespace lstm_fast::cuda {

template <class Policy, int kRegisters, bool kSplit, bool kDropout>
class ForwardPass : public Pass<ForwardPass<Policy, kRegisters, kSplit, kDropout>, ForwardCall, Policy, kRegisters> {
  using Base = Pass<ForwardPass, ForwardCall, Policy, kRegisters>;
  using Base::arguments_, Base::cells_, Base::cut_, Base::first_unit_, Base::fragments_, Base::group_, Base::inputs_,
      Base::jobs_, Base::lane_, Base::layout_, Base::operand_, Base::plan_, Base::problem_, Base::rows_, Base::units_,
      Base::warp_;
  using typename Base::Element, typename Base::Operand, typename Base::Real;
  friend Base;

 public:
  LSTM_FAST_DEVICE explicit ForwardPass(const ForwardCall& call)
      : Base(call, ForwardLayout(Policy::kTile, kRegisters, static_cast<int>(call.inputs.problem.units), call.cut,
                                 kDropout, kSplit)),
        gate_stride_(cut_.rows * layout_.operand_stride),
        partial_(InShared<Real>(layout_.partial, layout_.partial_size)),
        exchange_(InGlobal<Operand>(call.exchange)) {
    if (cut_.exchange == Exchange::kGrid) exchange_ += int64_t{group_.index} * 2 * layout_.operand_size;
  }

 private:
  static constexpr int kSlots = Policy::kSlots;

  // Of a job: its 8 units in the block, and its piece of the sum.
  LSTM_FAST_DEVICE int UnitOfJob(int job) const {
    const int index = warp_ + job * cut_.warps;
    return (kSplit ? index / cut_.splits : index) * kWarpUnits;
  }
  LSTM_FAST_DEVICE int SplitOfJob(int job) const { return kSplit ? (warp_ + job * cut_.warps) % cut_.splits : 0; }
  LSTM_FAST_DEVICE int FirstTerm(int job) const { return SplitOfJob(job) * layout_.depth_tiles * Policy::kTile.depth; }

  // The transposed recurrent kernel in fragments, from global memory.
  LSTM_FAST_DEVICE auto SourceOf(const RowSet& set) const {
    const Global<const Element> kernel = InGlobal<const Element>(inputs_.direction[set.direction].recurrent_kernel);
    return [this, kernel](int job, int f) {
      const int first = first_unit_ + UnitOfJob(job), fragment = f % Policy::kFragments;
      const auto at = [&](int m, int k) {
        const GateUnit row = Policy::ForwardRow(fragment, m);
        const int unit = first + row.unit;
        return k < units_ && unit < units_ ? Real(ToReal(kernel[(int64_t{k} * 4 + row.gate) * units_ + unit]))
                                           : Real(0);
      };
      return Policy::Fragment(at, lane_, FirstTerm(job) + f / Policy::kFragments * Policy::kTile.depth);
    };
  }

  LSTM_FAST_DEVICE void RunSet(const RowSet& set) {
    const int64_t longest = LoadRows(set, cut_, problem_, plan_, rows_);
    SyncBlock();
    Begin(set);
    kSplit ? RunSplit(set, longest) : RunWhole(set, longest);
  }

  // A warp finishes the gates that it computes. z is loaded one job ahead.
  LSTM_FAST_DEVICE void RunWhole(const RowSet& set, int64_t longest) {
    Incoming next[kSlots];
    LoadForLane(set, 0, 0, 0, next);
    for (int64_t k = 0; k < longest; ++k) {
      if (cut_.exchange == Exchange::kGrid && k > 0) Receive(k);
      for (int pass = 0; pass < cut_.rows; pass += Policy::kRows) {
        for (int job = 0; job < jobs_; ++job) {
          Incoming now[kSlots];
          LSTM_FAST_UNROLL
          for (int slot = 0; slot < kSlots; ++slot) now[slot] = next[slot];
          const bool last_job = job + 1 == jobs_, last_pass = pass + Policy::kRows >= cut_.rows;
          const int next_pass = !last_job ? pass : last_pass ? 0 : pass + Policy::kRows;
          LoadForLane(set, last_job && last_pass ? k + 1 : k, next_pass, last_job ? 0 : job + 1, next);
          const Gates<Real, kSlots> product = Multiply(set, k, pass, job);
          LSTM_FAST_UNROLL
          for (int slot = 0; slot < kSlots; ++slot) {
            if (now[slot].time < 0) continue;
            const Real gates[4] = {product.value[0][slot], product.value[1][slot], product.value[2][slot],
                                   product.value[3][slot]};
            Finish(set, k, pass + Policy::RowOf(slot, lane_.t), UnitOfJob(job) + lane_.g, gates, now[slot]);
          }
        }
      }
      group_.Sync();
    }
  }

  // Cells, a unit in a row, for which a thread loads z a step ahead; the others wait for theirs.
  static constexpr int kAhead = 2;

  // Warps leave their parts of the gates in shared memory, and threads add them up and finish them.
  LSTM_FAST_DEVICE void RunSplit(const RowSet& set, int64_t longest) {
    const int size = cut_.rows * cut_.units;
    const auto load = [&](int i, int64_t k) { return Load(set, k, i / cut_.units, i % cut_.units); };
    const auto finish = [&](int i, int64_t k, const Incoming& incoming) {
      if (incoming.time < 0) return;
      Real gates[4];
      LSTM_FAST_UNROLL
      for (int q = 0; q < 4; ++q) {
        gates[q] = 0;
        for (int split = 0; split < cut_.splits; ++split) gates[q] += Real(partial_[(split * 4 + q) * size + i]);
      }
      Finish(set, k, i / cut_.units, i % cut_.units, gates, incoming);
    };
    Incoming next[kAhead];
    LSTM_FAST_UNROLL
    for (int n = 0; n < kAhead; ++n) {
      const int i = Thread() + n * Threads();
      next[n].time = -1;
      if (i < size) next[n] = load(i, 0);
    }
    for (int64_t k = 0; k < longest; ++k) {
      if (cut_.exchange == Exchange::kGrid && k > 0) Receive(k);
      for (int pass = 0; pass < cut_.rows; pass += Policy::kRows) {
        for (int job = 0; job < jobs_; ++job) {
          const Gates<Real, kSlots> product = Multiply(set, k, pass, job);
          LSTM_FAST_UNROLL
          for (int slot = 0; slot < kSlots; ++slot) {
            const int r = Policy::RowOf(slot, lane_.t);
            if (r >= Policy::kRows) continue;
            LSTM_FAST_UNROLL
            for (int q = 0; q < 4; ++q) {
              partial_[((SplitOfJob(job) * 4 + q) * cut_.rows + pass + r) * cut_.units + UnitOfJob(job) + lane_.g] =
                  product.value[q][slot];
            }
          }
        }
      }
      SyncBlock();
      LSTM_FAST_UNROLL
      for (int n = 0; n < kAhead; ++n) {
        const int i = Thread() + n * Threads();
        if (i >= size) continue;
        finish(i, k, next[n]);
        next[n] = load(i, k + 1);
      }
      for (int i = Thread() + kAhead * Threads(); i < size; i += Threads()) finish(i, k, load(i, k));
      group_.Sync();
    }
  }

  // States before the first timestep: every block has all of h, and its own units of c.
  LSTM_FAST_DEVICE void Begin(const RowSet& set) {
    const Direction& d = inputs_.direction[set.direction];
    const Global<const Element> h0 = InGlobal<const Element>(d.h0), c0 = InGlobal<const Element>(d.c0);
    const int stride = layout_.operand_stride;
    for (int i = Thread(); i < layout_.operand_size * layout_.operand_buffers; i += Threads()) {
      const int column = i % stride, r = i / stride % cut_.rows, gate = i / gate_stride_ % 4;
      const Row row = rows_[r];
      Real h = 0;
      if (!IsNull(h0) && i < layout_.operand_size && row.batch >= 0 && column < units_) {
        h = ToReal(h0[int64_t{row.batch} * units_ + column]);
        if constexpr (kDropout) h *= Multiplier(set, gate, row, column);
      }
      operand_[i] = Policy::ToOperand(h);
    }
    for (int i = Thread(); i < cut_.rows * cut_.units; i += Threads()) {
      const Row row = rows_[i / cut_.units];
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
  LSTM_FAST_DEVICE void Receive(int64_t k) {
    const Global<const Words> from = Cast<const Words>(exchange_ + k % 2 * layout_.operand_size);
    const Shared<Words> to = Cast<Words>(operand_);
    const int count = layout_.operand_size * static_cast<int>(sizeof(Operand)) / static_cast<int>(sizeof(Words));
    for (int i = Thread(); i < count; i += Threads()) to[i] = LoadL2<Words>(from + i);
    SyncBlock();
  }

  // What z has for a unit in a row, in one timestep.
  struct Incoming {
    int32_t time;  // -1: the row has no such timestep
    Element gate[4];
  };

  LSTM_FAST_DEVICE Incoming Load(const RowSet& set, int64_t k, int r, int in_block) const {
    const int unit = first_unit_ + in_block;
    Incoming incoming{};
    incoming.time = -1;
    if (unit >= units_) return incoming;
    const Row row = rows_[r];
    if (k >= row.count) return incoming;
    const int64_t time = TimeOf(row, k, set.reversed, problem_.time, InGlobal<const int32_t>(plan_.steps));
    const int64_t step = (row.batch * problem_.time + time) * problem_.directions + set.direction;
    incoming.time = static_cast<int32_t>(time);
    LSTM_FAST_UNROLL
    for (int q = 0; q < 4; ++q)
      incoming.gate[q] = InGlobal<const Element>(arguments_.z)[(step * 4 + q) * units_ + unit];
    return incoming;
  }

  LSTM_FAST_DEVICE void LoadForLane(const RowSet& set, int64_t k, int pass, int job,
                                    Incoming (&incoming)[kSlots]) const {
    LSTM_FAST_UNROLL
    for (int slot = 0; slot < kSlots; ++slot) {
      const int r = Policy::RowOf(slot, lane_.t);
      incoming[slot].time = -1;
      if (r < Policy::kRows && job < jobs_) incoming[slot] = Load(set, k, pass + r, UnitOfJob(job) + lane_.g);
    }
  }

  // The product of a job for the rows of a pass.
  LSTM_FAST_DEVICE Gates<Real, kSlots> Multiply(const RowSet& set, int64_t k, int pass, int job) const {
    typename Policy::Sums sums[Policy::kFragments][2] = {};
    const Shared<const Operand> h = operand_ + (ReadBuffer(k) + pass * layout_.operand_stride + FirstTerm(job));
    MultiplyJob<Policy::kFragments, kDropout>(fragments_, SourceOf(set), job, layout_.depth_tiles, h,
                                              layout_.operand_stride, gate_stride_, lane_, sums);
    return Policy::Finish(sums, lane_, kDropout);
  }

  // The rest of a timestep for a unit in a row, whose gates are those of h alone so far.
  LSTM_FAST_DEVICE void Finish(const RowSet& set, int64_t k, int r, int in_block, const Real (&product)[4],
                               const Incoming& incoming) {
    const Global<const Element> bias = InGlobal<const Element>(inputs_.direction[set.direction].bias);
    const int unit = first_unit_ + in_block, place = r * cut_.units + in_block;
    const Row row = rows_[r];
    Real gate[4];
    LSTM_FAST_UNROLL
    for (int q = 0; q < 4; ++q) {
      gate[q] = product[q] + Real(ToReal(incoming.gate[q]));
      if (!IsNull(bias)) gate[q] += Real(ToReal(bias[q * units_ + unit]));
    }
    const Real in = Sigmoid(gate[0]), forget = Sigmoid(gate[1]), candidate = Tanh(gate[2]), out = Sigmoid(gate[3]);
    const Real c = MultiplyAdd(forget, Real(cells_[place]), in * candidate);
    cells_[place] = c;
    const Real h = out * Tanh(c);
    if (k + 1 < row.count) Send(set, row, r, k, unit, h);
    Keep(set, row, incoming.time, unit, {in, forget, candidate, out}, c);
    Write(set, row, k, incoming.time, unit, h, c);
  }

  LSTM_FAST_DEVICE int ReadBuffer(int64_t k) const {
    return cut_.exchange == Exchange::kGrid ? 0 : static_cast<int>(k % 2) * layout_.operand_size;
  }

  LSTM_FAST_DEVICE Real Multiplier(const RowSet& set, int gate, const Row& row, int64_t unit) const {
    const Global<const Element> dropout = InGlobal<const Element>(inputs_.direction[set.direction].recurrent_dropout);
    return ToReal(dropout[(gate * problem_.batch + row.batch) * units_ + unit]);
  }

  // Passes a new h to every block of the group, for the next timestep.
  LSTM_FAST_DEVICE void Send(const RowSet& set, const Row& row, int r, int64_t k, int unit, Real h) {
    LSTM_FAST_UNROLL
    for (int q = 0; q < (kDropout ? 4 : 1); ++q) {
      Real value = h;
      if constexpr (kDropout) value *= Multiplier(set, q, row, unit);
      const Operand operand = Policy::ToOperand(value);
      const int at =
          static_cast<int>((k + 1) % 2) * layout_.operand_size + q * gate_stride_ + r * layout_.operand_stride + unit;
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

  LSTM_FAST_DEVICE void Keep(const RowSet& set, const Row& row, int64_t time, int unit, const Real (&gates)[4],
                             Real c) const {
    if (!arguments_.reserve) return;
    const int64_t step = (int64_t{row.batch} * problem_.directions + set.direction) * problem_.time + time;
    const Global<Real> entry =
        Cast<Real>(InGlobal<unsigned char>(arguments_.reserve) + step * arguments_.reserve_step_bytes);
    constexpr int kWords = 4 * sizeof(Real) / sizeof(Words);
    Words words[kWords];
    memcpy(words, gates, sizeof words);
    const Global<Words> to = Cast<Words>(entry + 4 * int64_t{unit});
    LSTM_FAST_UNROLL
    for (int i = 0; i < kWords; ++i) to[i] = words[i];
    entry[4 * int64_t{units_} + unit] = c;
  }

  LSTM_FAST_DEVICE void Write(const RowSet& set, const Row& row, int64_t k, int64_t time, int unit, Real h,
                              Real c) const {
    const bool last = k == row.count - 1;
    if (problem_.return_sequences) {
      const int64_t place = int64_t{row.batch} * problem_.time + OutputPlace(time, problem_);
      InGlobal<Element>(arguments_.y)[(place * problem_.directions + set.direction) * units_ + unit] =
          Rounded<Element>(h);
    } else if (last) {
      const bool padded = time != (set.reversed ? 0 : problem_.time - 1);
      WriteLast(set, row, unit, padded && problem_.zero_output_for_mask ? Real(0) : h);
    }
    if (last) WriteStates(set, int64_t{row.batch} * units_ + unit, h, c);
  }

  LSTM_FAST_DEVICE void WriteLast(const RowSet& set, const Row& row, int unit, Real h) const {
    InGlobal<Element>(arguments_.y)[(int64_t{row.batch} * problem_.directions + set.direction) * units_ + unit] =
        Rounded<Element>(h);
  }

  LSTM_FAST_DEVICE void WriteStates(const RowSet& set, int64_t at, Real h, Real c) const {
    InGlobal<Element>(arguments_.h_n[set.direction])[at] = Rounded<Element>(h);
    InGlobal<Element>(arguments_.c_n[set.direction])[at] = Rounded<Element>(c);
  }

  const int gate_stride_;
  Shared<Real> partial_;
  Global<Operand> exchange_;
};

template <class Policy, int kRegisters, bool kSplit, bool kDropout, int kMostThreads>
LSTM_FAST_KERNEL void LSTM_FAST_BOUNDS(kMostThreads, 1) RunForward(LSTM_FAST_ARGUMENT ForwardCall call) {
  if constexpr (kIsCompiled<Policy>) ForwardPass<Policy, kRegisters, kSplit, kDropout>(call).Run();
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_FORWARD_H_
