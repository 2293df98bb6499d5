// What the forward and the backward pass of a group have in common: where a block has its data, which jobs a warp has,
// and the loop over sets of rows. `Self` is the pass: it gives the layout of its memory, reads fragments of the
// recurrent kernel (ReaderOf), and runs a set (RunSet).
#ifndef LSTM_FAST_CUDA_GROUP_PASS_H_
#define LSTM_FAST_CUDA_GROUP_PASS_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/group.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/product.h"
#include "cuda/recurrence.h"
#include "cuda/rows.h"

namespace lstm_fast::cuda {

// Quotients without a division, which takes a device long: of numbers below 2^16 by one from 2 to 2^16.
class Divisor {
 public:
  LSTM_FAST_DEVICE explicit Divisor(int divisor) : inverse_(0xffffffffu / static_cast<uint32_t>(divisor) + 1) {}

  LSTM_FAST_DEVICE int Quotient(int dividend) const {
    return static_cast<int>(uint64_t{static_cast<uint32_t>(dividend)} * inverse_ >> 32);
  }

 private:
  uint32_t inverse_;  // 2^32 / divisor, rounded up: off by less than 2^-16 of a quotient's unit
};

template <class Self, class Call, class Policy, int kRegisters>
class GroupPass {
 public:
  using Element = typename Policy::Element;
  using Real = typename Policy::Real;
  using Operand = typename Policy::Operand;

  LSTM_FAST_DEVICE void Run() {
    Self& self = static_cast<Self&>(*this);
    ForEachSet(
        group_.index, cut_, problem_, [&](const RowSet& set) { fragments_.Fill(self.ReaderOf(set), jobs_, lane_); },
        [&](const RowSet& set) { self.RunSet(set); });
  }

 protected:
  // Cells that a thread keeps for the whole sequence, where threads and not lanes of a job finish them; what it has of
  // others it looks up anew.
  static constexpr int kKept = kRegisters > 16 ? 2 : 1;  // blocks of more threads have fewer registers for each

  LSTM_FAST_DEVICE GroupPass(const Call& call, const Layout& layout)
      : problem_(call.inputs.problem),
        inputs_(call.inputs),
        arguments_(call.arguments),
        cut_(call.cut),
        plan_(call.plan),
        layout_(layout),
        group_(call.cut, call.counters),
        lane_(ThisLane()),
        warp_(Thread() / 32),
        units_(static_cast<int>(problem_.units)),
        time_(static_cast<int>(problem_.time)),
        first_unit_(group_.rank * cut_.units),
        operand_(InShared<Operand>(layout_.operand, layout_.operand_buffers * layout_.operand_size)),
        cells_(InShared<Real>(layout_.state, cut_.rows * cut_.units)),
        rows_(InShared<GroupRow>(layout_.rows, cut_.rows)),
        jobs_(warp_ < layout_.jobs ? CeilDivide(layout_.jobs - warp_, cut_.warps) : 0) {
    fragments_.shared =
        InShared<Words>(layout_.fragments + warp_ * cut_.fragments_shared * kFragmentBytes, cut_.fragments_shared * 32);
    fragments_.shared_count = cut_.fragments_shared;
    fragments_.job_fragments = layout_.job_fragments;
  }

  const Problem& problem_;
  const Inputs& inputs_;
  const decltype(Call::arguments)& arguments_;
  const Cut& cut_;
  const DevicePlan& plan_;
  const Layout layout_;
  Group group_;
  const Lane lane_;
  const int warp_, units_, time_, first_unit_;
  Shared<Operand> operand_;  // h, or dz
  Shared<Real> cells_;       // c, or dc, [rows][units of the block]
  Shared<GroupRow> rows_;
  const int jobs_;  // of this warp
  Fragments<Policy, kRegisters> fragments_;
};

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_GROUP_PASS_H_
