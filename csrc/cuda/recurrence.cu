// The schedule of a pass: which launches, in which order, on which memory.
//
// With a mask, one or two launches before the recurrence find the real timesteps of every row, another one sums
// gradients of padding, and one or more after it complete what the recurrence, which visits real timesteps only, leaves
// out.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "cuda/elements.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/mask.h"
#include "cuda/recurrence.h"
#include "cuda/rows.h"
#include "cuda/runtime.h"
#include "cuda/select.h"
#include "lstm_fast/lstm.h"

namespace lstm_fast::cuda {
namespace {

std::atomic<int64_t> forward_calls{0}, backward_calls{0};
std::atomic<bool> skips{true};

int64_t AlignUp(int64_t bytes) { return RoundUp(bytes, kScratchAlignment); }

const Variant& VariantOf(const Cut& cut) { return Variants()[static_cast<size_t>(cut.variant)]; }
// Where things are in the scratch memory: the plan, sums of padding, counters, what groups exchange.
struct ScratchLayout {
  ScratchLayout(const Problem& problem, bool masked, const Cut& cut, Pass pass) {
    const bool grid = cut.exchange == Exchange::kGrid, sums = masked && pass == Pass::kBackward;
    plan_bytes = masked ? PlanInts(problem.batch, problem.time) * int64_t{sizeof(int32_t)} : 0;
    padding = AlignUp(plan_bytes);
    counters = AlignUp(padding + (sums ? problem.batch * PaddingBytesOfRow(problem) : 0));
    counter_bytes = grid ? cut.groups * int64_t{sizeof(unsigned)} : 0;
    exchange = AlignUp(counters + counter_bytes);
    bytes = exchange + (grid ? cut.groups * ExchangeBytes(problem, VariantOf(cut), cut, pass) : 0);
  }

  // Also where masked timesteps carry on nothing: who asks for the memory does not know.
  static int64_t PaddingBytesOfRow(const Problem& problem) {
    return problem.directions * problem.units * RealBytes(problem.dtype);
  }

  int64_t plan_bytes, padding, counters, counter_bytes, exchange, bytes;
};

bool HasDropout(const Inputs& inputs) { return inputs.direction[0].recurrent_dropout != nullptr; }

// Launches everything of one call.
class Schedule {
 public:
  Schedule(const Inputs& inputs, Pass pass, void* memory, const Device& device, Stream stream)
      : inputs_(inputs),
        problem_(inputs.problem),
        cut_(ChooseOnDevice(problem_, HasDropout(inputs), pass, device).cut),
        scratch_(problem_, inputs.mask != nullptr, cut_, pass),
        memory_(static_cast<char*>(memory)),
        device_(device),
        stream_(stream) {}

  template <class Call, class Arguments>
  void RunRecurrence(void (*Variant::*kernel)(Call), const Arguments& arguments) {
    const Variant& variant = VariantOf(cut_);
    Call call{};
    call.inputs = inputs_;
    call.arguments = arguments;
    call.cut = cut_;
    call.skips = skips;
    if (inputs_.mask) call.plan = FindRealTimesteps();
    if constexpr (std::is_same_v<Call, BackwardCall>) {
      const bool carried = problem_.return_sequences && !problem_.zero_output_for_mask;
      if (inputs_.mask && arguments.dy && carried) call.padding = SumOfPadding(call.plan, arguments.dy);
    }
    if (cut_.exchange == Exchange::kGrid) {
      call.counters = reinterpret_cast<unsigned*>(memory_ + scratch_.counters);
      call.exchange = memory_ + scratch_.exchange;
      Clear(call.counters, scratch_.counter_bytes, stream_);
    }
    const Grid grid = {cut_.groups * cut_.blocks, cut_.warps * 32,
                       cut_.exchange == Exchange::kCluster ? cut_.blocks : 1, cut_.exchange == Exchange::kGrid,
                       cut_.shared_bytes};
    Launch(variant.*kernel, variant.name.c_str(), grid, call, stream_);
  }

  // y, after the pass: each direction has a previous timestep of its own.
  void FillOutputs(void* y) {
    if (!inputs_.mask || !problem_.return_sequences) return;
    const int64_t own = problem_.units * SizeOf(problem_.dtype), row = problem_.directions * own;  // of a direction
    const bool flipped = problem_.directions == 1 && problem_.go_backwards;
    if (problem_.zero_output_for_mask) {
      Fill(y, row, 0, row, false, false, flipped);
      return;
    }
    for (int n = 0; n < problem_.directions; ++n) Fill(y, row, n * own, own, true, IsReversed(n, problem_), flipped);
  }

  // An array [B, T, features] in the order of the input.
  void FillZeros(void* array, int64_t features) {
    if (!inputs_.mask || !array) return;
    const int64_t bytes = features * SizeOf(problem_.dtype);
    Fill(array, bytes, 0, bytes, false, false, false);
  }

 private:
  DevicePlan FindRealTimesteps() {
    int32_t* ints = reinterpret_cast<int32_t*>(memory_);
    const DevicePlan plan = {ints, ints + problem_.batch, ints + 2 * problem_.batch, ints + 3 * problem_.batch};
    const PlanCall call = {inputs_.mask, problem_.batch, problem_.time, plan};
    if (problem_.batch <= kPlanRows) {
      Launch(&PlanRows, "PlanRows", {1, static_cast<int>(problem_.batch) * 32, 1, false, 0}, call, stream_);
      return plan;
    }
    const Grid grid = GridOfWarps(problem_.batch);
    Launch(&PlanRows, "PlanRows", grid, call, stream_);
    if (problem_.batch <= kMostSortedRows) Launch(&SortPlannedRows, "SortPlannedRows", grid, call, stream_);
    return plan;
  }

  const void* SumOfPadding(const DevicePlan& plan, const void* dy) {
    void* const sums = memory_ + scratch_.padding;
    const PaddingCall call = {problem_, plan, dy, sums};
    const int64_t blocks = problem_.batch * problem_.directions * CeilDivide(problem_.units, 32);
    const auto launch = [&](auto kernel) {
      const int64_t shared_bytes = kPaddingThreads * RealBytes(problem_.dtype);
      Launch(kernel, "SumPadding", {AtOnce(blocks), kPaddingThreads, 1, false, shared_bytes}, call, stream_);
    };
    switch (problem_.dtype) {
      case DType::kFloat32:
        launch(&SumPadding<float>);
        break;
      case DType::kFloat64:
        launch(&SumPadding<double>);
        break;
      case DType::kFloat16:
        launch(&SumPadding<Half>);
        break;
      case DType::kBFloat16:
        launch(&SumPadding<BFloat16>);
        break;
    }
    return sums;
  }

  void Fill(void* array, int64_t row_bytes, int64_t offset, int64_t bytes, bool carry, bool reversed, bool flipped) {
    const FillCall call = {inputs_.mask, problem_.batch, problem_.time, row_bytes, offset,
                           bytes,        carry,          reversed,      flipped,   array};
    Launch(&FillMasked, "FillMasked", GridOfWarps(problem_.batch * problem_.time), call, stream_);
  }

  // Of so many small blocks as many as the device holds at once, more or less; more than one of what needs two.
  int AtOnce(int64_t blocks) const {
    return static_cast<int>(std::clamp<int64_t>(blocks, 1, int64_t{8} * device_.multiprocessors));
  }
  Grid GridOfWarps(int64_t warps) const {
    constexpr int kThreads = 256;
    return {AtOnce(CeilDivide(warps * 32, kThreads)), kThreads, 1, false, 0};
  }

  const Inputs& inputs_;
  const Problem& problem_;
  const Cut cut_;
  const ScratchLayout scratch_;
  char* const memory_;
  const Device& device_;
  const Stream stream_;
};

int64_t ResidentGroups(const Variant& variant, const Cut& cut, Pass pass, const Device& device) {
  const auto of = [&](auto kernel) -> int64_t {
    const int threads = cut.warps * 32;
    if (cut.exchange == Exchange::kCluster && cut.blocks > 1) {
      return ResidentClusters(kernel, cut.blocks, threads, cut.shared_bytes);
    }
    return int64_t{device.multiprocessors} * ResidentBlocks(kernel, threads, cut.shared_bytes) / cut.blocks;
  };
  return pass == Pass::kForward ? of(variant.forward) : of(variant.backward);
}

}  // namespace

Choice ChooseOnDevice(const Problem& problem, bool dropout, Pass pass, const Device& device) {
  return Choose(problem, dropout, pass, device,
                [&](const Variant& variant, const Cut& cut) { return ResidentGroups(variant, cut, pass, device); });
}

int64_t ScratchBytes(const Problem& problem, bool masked, bool dropout, const Device& device) {
  if (problem.batch == 0) return 0;
  int64_t bytes = 0;
  for (const Pass pass : {Pass::kForward, Pass::kBackward}) {
    const Cut cut = ChooseOnDevice(problem, dropout, pass, device).cut;
    bytes = std::max(bytes, ScratchLayout(problem, masked, cut, pass).bytes);
  }
  return bytes;
}

ScratchBound ScratchBytesAtMost(const Problem& problem, bool masked, bool dropout, const Device& device) {
  const auto bytes_of = [masked](int64_t ints) { return masked ? ints * int64_t{sizeof(int32_t)} : 0; };
  int64_t exchange = 0;
  for (const Pass pass : {Pass::kForward, Pass::kBackward}) {
    const auto resident = [&](const Variant& variant, const Cut& cut) {
      return ResidentGroups(variant, cut, pass, device);
    };
    exchange = std::max(exchange, MostExchangeBytes(problem, dropout, pass, device, resident));
  }
  // The plan of a row without timesteps, and what each of another one adds; four parts begin where they are aligned.
  const int64_t padding = masked ? ScratchLayout::PaddingBytesOfRow(problem) : 0;
  return {bytes_of(PlanInts(1, 1) - PlanInts(1, 0)), bytes_of(PlanInts(1, 0)) + padding,
          exchange + 4 * kScratchAlignment};
}

void Forward(const Inputs& inputs, const ForwardArguments& arguments, const Device& device, Stream stream) {
  ++forward_calls;
  if (inputs.problem.batch == 0) return;
  Schedule schedule(inputs, Pass::kForward, arguments.scratch, device, stream);
  schedule.RunRecurrence(&Variant::forward, arguments);
  schedule.FillOutputs(arguments.y);
}

void Backward(const Inputs& inputs, const BackwardArguments& arguments, const Device& device, Stream stream) {
  ++backward_calls;
  const Problem& p = inputs.problem;
  if (p.batch == 0) return;
  Schedule schedule(inputs, Pass::kBackward, arguments.scratch, device, stream);
  schedule.RunRecurrence(&Variant::backward, arguments);
  schedule.FillZeros(arguments.dz, p.directions * 4 * p.units);
  schedule.FillZeros(arguments.h_prev, p.directions * p.units);
}

void SetSkips(bool wanted) { skips = wanted; }

CallCounts GetCallCounts() { return {forward_calls.load(), backward_calls.load()}; }

}  // namespace lstm_fast::cuda
