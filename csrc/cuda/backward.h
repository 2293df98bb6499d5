// The backward pass over whole sequences in one launch. In every timestep, last to first, the threads of a block turn
// dh and dc of its units into dz; the product of dz with the block's share of the recurrent kernel is its part of the
// sum that is dh of all units one timestep earlier, and goes to the blocks that own these; then the group meets. The
// parts are added in a fixed order.
#ifndef LSTM_FAST_CUDA_BACKWARD_H_
#define LSTM_FAST_CUDA_BACKWARD_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/group.h"
#include "cuda/layout.h"
#include "cuda/pass.h"
#include "cuda/product.h"

namespace lstm_fast::cuda {

template <class Policy, int kRegisters, bool kDropout>
class BackwardPass : public Pass<BackwardPass<Policy, kRegisters, kDropout>, BackwardCall, Policy, kRegisters> {
  using Base = Pass<BackwardPass, BackwardCall, Policy, kRegisters>;
  using Base::arguments_, Base::cells_, Base::cut_, Base::first_unit_, Base::fragments_, Base::group_, Base::inputs_,
      Base::jobs_, Base::lane_, Base::layout_, Base::operand_, Base::plan_, Base::problem_, Base::rows_, Base::units_,
      Base::warp_;
  using typename Base::Element, typename Base::Real;
  friend Base;

 public:
  LSTM_FAST_DEVICE explicit BackwardPass(const BackwardCall& call)
      : Base(call, BackwardLayout(Policy::kTile, kRegisters, static_cast<int>(call.inputs.problem.units), call.cut)),
        sources_(cut_.blocks * cut_.splits),
        // Carried outputs: dy of masked timesteps belongs to the real one before them.
        carried_(plan_.order && problem_.return_sequences && !problem_.zero_output_for_mask),
        partial_(InShared<Real>(layout_.partial, cut_.exchange == Exchange::kGrid ? 0 : 2 * layout_.partial_size)),
        exchange_(InGlobal<Real>(call.exchange)) {
    if (cut_.exchange == Exchange::kGrid) exchange_ += int64_t{group_.index} * 2 * cut_.blocks * layout_.partial_size;
  }

 private:
  // What the forward pass kept of a unit in one timestep.
  struct Saved {
    Real in, forget, candidate, out, c;
  };

  // Cells for which a thread loads what it needs of the next timestep before it is needed.
  static constexpr int kAhead = 2;

  // A unit of the block in one of its rows.
  struct Cell {
    int r, in_block, unit;
    Row row;
    bool exists;
  };

  LSTM_FAST_DEVICE Cell At(int i) const {
    const int r = i / cut_.units, in_block = i % cut_.units;
    const Row row = rows_[r];
    const int unit = first_unit_ + in_block;
    return {r, in_block, unit, row, row.batch >= 0 && unit < units_};
  }

  LSTM_FAST_DEVICE auto SourceOf(const RowSet& set) const {
    const Global<const Element> kernel = InGlobal<const Element>(inputs_.direction[set.direction].recurrent_kernel);
    return [this, kernel](int job, int f) {
      const int index = warp_ + job * cut_.warps;
      const int first = index / cut_.splits * Policy::kTile.backward_units;
      const int begin = (index % cut_.splits * layout_.depth_tiles + f) * Policy::kTile.depth;
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
    const int64_t longest = LoadRows(set, cut_, problem_, plan_, rows_);
    for (int i = Thread(); i < layout_.operand_size; i += Threads()) operand_[i] = Policy::ToOperand(0);
    // Also: no block of a cluster writes to another that has not begun, or that is not done with its last set.
    group_.Sync();
    Saved now[kAhead], before[kAhead];
    const int size = cut_.rows * cut_.units;
    LSTM_FAST_UNROLL
    for (int n = 0; n < kAhead; ++n) {
      const int i = Thread() + n * Threads();
      now[n] = before[n] = Saved{};
      if (i >= size) continue;
      now[n] = Load(set, At(i), longest - 1);
      before[n] = Load(set, At(i), longest - 2);
    }
    for (int64_t k = longest - 1; k >= 0; --k) {
      LSTM_FAST_UNROLL
      for (int n = 0; n < kAhead; ++n) {
        const int i = Thread() + n * Threads();
        if (i >= size) continue;
        Differentiate(set, At(i), k, now[n], before[n]);
        now[n] = before[n];
        before[n] = Load(set, At(i), k - 2);
      }
      for (int i = Thread() + kAhead * Threads(); i < size; i += Threads()) {
        const Cell cell = At(i);
        Differentiate(set, cell, k, Load(set, cell, k), Load(set, cell, k - 1));
      }
      SyncBlock();
      for (int pass = 0; pass < cut_.rows; pass += Policy::kRows) {
        for (int job = 0; job < jobs_; ++job) Multiply(set, k, pass, job);
      }
      group_.Sync();
    }
    for (int i = Thread(); i < size; i += Threads()) Finish(set, At(i));
    SyncBlock();  // before the rows are replaced
  }

  LSTM_FAST_DEVICE int64_t TimeOfStep(const RowSet& set, const Row& row, int64_t k) const {
    return TimeOf(row, k, set.reversed, problem_.time, InGlobal<const int32_t>(plan_.steps));
  }

  LSTM_FAST_DEVICE Saved Load(const RowSet& set, const Cell& cell, int64_t k) const {
    Saved saved{};
    if (!cell.exists || k < 0 || k >= cell.row.count) return saved;
    const int64_t time = TimeOfStep(set, cell.row, k);
    const int64_t step = (int64_t{cell.row.batch} * problem_.directions + set.direction) * problem_.time + time;
    const Global<const Real> entry =
        Cast<const Real>(InGlobal<const unsigned char>(arguments_.reserve) + step * arguments_.reserve_step_bytes);
    constexpr int kWords = 4 * sizeof(Real) / sizeof(Words);
    const Global<const Words> from = Cast<const Words>(entry + 4 * int64_t{cell.unit});
    Words words[kWords];
    LSTM_FAST_UNROLL
    for (int i = 0; i < kWords; ++i) words[i] = from[i];
    Real gates[4];
    memcpy(gates, words, sizeof gates);
    return {gates[0], gates[1], gates[2], gates[3], entry[4 * int64_t{units_} + cell.unit]};
  }

  // The gradient of the outputs that timestep k has determined.
  LSTM_FAST_DEVICE Real OutputGradient(const RowSet& set, const Cell& cell, int64_t k, int64_t time) const {
    const Global<const Element> dy = InGlobal<const Element>(arguments_.dy);
    if (IsNull(dy)) return 0;
    const Row& row = cell.row;
    const auto at = [&](int64_t place) {
      return Real(ToReal(dy[(place * problem_.directions + set.direction) * units_ + cell.unit]));
    };
    const int64_t sequence = int64_t{row.batch} * problem_.time, step = set.reversed ? -1 : 1;
    const int64_t end = set.reversed ? -1 : problem_.time;
    if (!problem_.return_sequences) {
      const bool padded = time + step != end;
      return k == row.count - 1 && !(padded && problem_.zero_output_for_mask) ? at(row.batch) : Real(0);
    }
    Real sum = at(sequence + OutputPlace(time, problem_));
    if (carried_) {
      const int64_t next = k + 1 < row.count ? TimeOfStep(set, row, k + 1) : end;
      for (int64_t t = time + step; t != next; t += step) sum += at(sequence + OutputPlace(t, problem_));
    }
    return sum;
  }

  LSTM_FAST_DEVICE Real Given(const void* array, int64_t at) const {
    const Global<const Element> given = InGlobal<const Element>(array);
    return IsNull(given) ? Real(0) : Real(ToReal(given[at]));
  }

  // One timestep of one unit and row: dz, and dc of the timestep before.
  LSTM_FAST_DEVICE void Differentiate(const RowSet& set, const Cell& cell, int64_t k, const Saved& now,
                                      const Saved& before) {
    const Row& row = cell.row;
    if (!cell.exists || k >= row.count) return;
    const int n = set.direction, place = cell.r * cut_.units + cell.in_block;
    const int64_t state = int64_t{row.batch} * units_ + cell.unit, time = TimeOfStep(set, row, k);
    const bool last = k == row.count - 1;
    const Real dh = (last ? Given(arguments_.dh_n[n], state) : Sum(set, cell, k)) + OutputGradient(set, cell, k, time);
    const Real c_before = k > 0 ? before.c : Given(inputs_.direction[n].c0, state);
    const Real tanh_c = Tanh(now.c);
    const Real dc =
        MultiplyAdd(dh * now.out, 1 - tanh_c * tanh_c, last ? Given(arguments_.dc_n[n], state) : Real(cells_[place]));
    cells_[place] = dc * now.forget;
    const Real dz[4] = {dc * now.candidate * now.in * (1 - now.in), dc * c_before * now.forget * (1 - now.forget),
                        dc * now.in * (1 - now.candidate * now.candidate), dh * tanh_c * now.out * (1 - now.out)};
    const int64_t step = (int64_t{row.batch} * problem_.time + time) * problem_.directions + n;
    const Global<Element> out = InGlobal<Element>(arguments_.dz);
    LSTM_FAST_UNROLL
    for (int q = 0; q < 4; ++q) {
      out[(step * 4 + q) * units_ + cell.unit] = Rounded<Element>(dz[q]);
      operand_[cell.r * layout_.operand_stride + q * layout_.gate_terms + cell.in_block] = Policy::ToOperand(dz[q]);
    }
    if (arguments_.h_prev) {
      InGlobal<Element>(arguments_.h_prev)[step * units_ + cell.unit] =
          Rounded<Element>(k > 0 ? before.out * Tanh(before.c) : Given(inputs_.direction[n].h0, state));
    }
  }

  // The product of a job: a part of dh before timestep k, for the rows of a pass.
  LSTM_FAST_DEVICE void Multiply(const RowSet& set, int64_t k, int pass, int job) {
    const int index = warp_ + job * cut_.warps;
    const int split = index % cut_.splits;
    typename Policy::Sums sums[1][2] = {};
    const Shared<const typename Policy::Operand> dz =
        operand_ + (pass * layout_.operand_stride + split * layout_.depth_tiles * Policy::kTile.depth);
    MultiplyJob<1, false>(fragments_, SourceOf(set), job, layout_.depth_tiles, dz, layout_.operand_stride, 0, lane_,
                          sums);
    const int first = index / cut_.splits * Policy::kTile.backward_units;
    const int source = group_.rank * cut_.splits + split;
    Policy::ForEach(sums[0][0], lane_, [&](int m, int r, Real value) {
      const int unit = first + m;
      if (unit >= units_) return;
      const int owner = unit / cut_.units;
      const int at = static_cast<int>(k % 2) * layout_.partial_size + (source * cut_.rows + pass + r) * cut_.units +
                     unit % cut_.units;
      switch (cut_.exchange) {
        case Exchange::kBlock:
          partial_[at] = value;
          break;
        case Exchange::kCluster:
          Remote(partial_, owner)[at] = value;
          break;
        case Exchange::kGrid:
          StoreL2(exchange_ + (int64_t{owner} * 2 * layout_.partial_size + at), value);
          break;
      }
    });
  }

  // dh after timestep k, without what the output adds: what all blocks computed in timestep k + 1.
  LSTM_FAST_DEVICE Real Sum(const RowSet& set, const Cell& cell, int64_t k) const {
    Real sums[4] = {};  // by gate, where recurrent dropout gives every gate its own multiplier
    for (int source = 0; source < sources_; source += cut_.splits) {
      LSTM_FAST_UNROLL
      for (int split = 0; split < 4; ++split) {
        if (split >= cut_.splits) break;
        const int at = static_cast<int>((k + 1) % 2) * layout_.partial_size +
                       ((source + split) * cut_.rows + cell.r) * cut_.units + cell.in_block;
        sums[split] += cut_.exchange == Exchange::kGrid
                           ? LoadL2<Real>(exchange_ + (int64_t{group_.rank} * 2 * layout_.partial_size + at))
                           : Real(partial_[at]);
      }
    }
    if constexpr (kDropout) {
      const Global<const Element> dropout = InGlobal<const Element>(inputs_.direction[set.direction].recurrent_dropout);
      LSTM_FAST_UNROLL
      for (int q = 0; q < 4; ++q) {
        sums[q] *= ToReal(dropout[(q * problem_.batch + cell.row.batch) * units_ + cell.unit]);
      }
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  // Gradients of the states before the first timestep.
  LSTM_FAST_DEVICE void Finish(const RowSet& set, const Cell& cell) const {
    if (!cell.exists) return;
    const int n = set.direction;
    const int64_t state = int64_t{cell.row.batch} * units_ + cell.unit;
    const bool ran = cell.row.count > 0;
    InGlobal<Element>(arguments_.dh0[n])[state] =
        Rounded<Element>(ran ? Sum(set, cell, -1) : Given(arguments_.dh_n[n], state));
    InGlobal<Element>(arguments_.dc0[n])[state] =
        Rounded<Element>(ran ? Real(cells_[cell.r * cut_.units + cell.in_block]) : Given(arguments_.dc_n[n], state));
  }

  const int sources_;
  const bool carried_;
  Shared<Real> partial_;
  Global<Real> exchange_;
};

template <class Policy, int kRegisters, bool kDropout, int kMostThreads>
LSTM_FAST_KERNEL void LSTM_FAST_BOUNDS(kMostThreads, 1) RunBackward(LSTM_FAST_ARGUMENT BackwardCall call) {
  if constexpr (kIsCompiled<Policy>) BackwardPass<Policy, kRegisters, kDropout>(call).Run();
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_BACKWARD_H_
