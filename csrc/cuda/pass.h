// What the two passes over whole sequences have in common: where a block has its data, which jobs a warp has, and the
// loop over sets of rows. `Self` is the pass: it gives the layout of its memory, the fragments of the recurrent kernel
// (SourceOf), and runs a set (RunSet).
#ifndef LSTM_FAST_CUDA_PASS_H_
#define LSTM_FAST_CUDA_PASS_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/group.h"
#include "cuda/layout.h"
#include "cuda/product.h"

namespace lstm_fast::cuda {

template <class Self, class Call, class Policy, int kRegisters>
class Pass {
 public:
  using Element = typename Policy::Element;
  using Real = typename Policy::Real;
  using Operand = typename Policy::Operand;

  LSTM_FAST_DEVICE void Run() {
    Self& self = static_cast<Self&>(*this);
    ForEachSet(
        group_.index, cut_, problem_, [&](const RowSet& set) { fragments_.Fill(self.SourceOf(set), jobs_, lane_); },
        [&](const RowSet& set) { self.RunSet(set); });
  }

 protected:
  LSTM_FAST_DEVICE Pass(const Call& call, const Layout& layout)
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
        rows_(InShared<Row>(layout_.rows, cut_.rows)),
        jobs_(warp_ < layout_.jobs ? CeilDivide(layout_.jobs - warp_, cut_.warps) : 0) {
    fragments_.kept =
        InShared<Words>(layout_.fragments + warp_ * cut_.fragments_shared * kFragmentBytes, cut_.fragments_shared * 32);
    fragments_.kept_count = cut_.fragments_shared;
    fragments_.job_fragments = layout_.job_fragments;
  }

  const Problem& problem_;
  const Inputs& inputs_;
  const decltype(Call::arguments)& arguments_;
  const Cut& cut_;
  const Plan& plan_;
  const Layout layout_;
  Group group_;
  const Lane lane_;
  const int warp_, units_, time_, first_unit_;
  Shared<Operand> operand_;  // h, or dz
  Shared<Real> cells_;       // c, or dc, [rows][units of the block]
  Shared<Row> rows_;
  const int jobs_;  // of this warp
  Fragments<Policy, kRegisters> fragments_;
};

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_PASS_H_
