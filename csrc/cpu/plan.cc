#include "cpu/plan.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace lstm_fast {
namespace {

// Real timesteps from one probe of a row's input to the next. Padding that repeats for less is not worth finding.
constexpr int64_t kProbe = 32;
// What an orbit of states usually takes to close, in trained models 120 to 200 timesteps; it only orders the rows.
constexpr int64_t kUsualOrbit = 128;

// The number of timesteps of a row before its list is made.
constexpr int64_t kUncounted = -1;

// How many timesteps of a row come before its first padding.
int64_t RealPrefix(const MaskByte* row, int64_t time) {
  const void* padding = std::memchr(row, 0, static_cast<size_t>(time));
  return padding ? static_cast<const MaskByte*>(padding) - row : time;
}

bool AnyIsReal(const MaskByte* row, int64_t time) {
  MaskByte any = 0;
  for (int64_t t = 0; t < time; ++t) any = static_cast<MaskByte>(any | row[t]);
  return TimestepIsReal(any);
}

// Returns how many there are. A timestep that is not real is written, too, but overwritten by the next one.
int64_t ListRealTimesteps(const MaskByte* row, int64_t time, int32_t* steps) {
  int64_t count = 0;
  for (int64_t t = 0; t < time; ++t) {
    steps[count] = static_cast<int32_t>(t);
    count += TimestepIsReal(row[t]) ? 1 : 0;
  }
  return count;
}

// How many timesteps of a row have, by its probes, the input of the one before.
int64_t RepeatedSteps(const Inputs& inputs, const Row& row) {
  if (inputs.problem.input == 0) return 0;  // there may be no memory for x
  const int64_t size = SizeOf(inputs.problem.dtype);
  const auto at = [&](int64_t k) {
    return static_cast<const char*>(inputs.x) +
           (row.batch * inputs.x_batch_stride + row.steps[k] * inputs.x_time_stride) * size;
  };
  int64_t equal = 0;
  for (int64_t k = kProbe; k < row.count; k += kProbe) {
    equal += std::memcmp(at(k), at(k - kProbe), static_cast<size_t>(inputs.problem.input * size)) == 0 ? 1 : 0;
  }
  return equal < 2 ? 0 : equal * kProbe;
}

// Elements of the table of a row whose gates are in blocks: their numbers, and its skips.
int64_t TableElements(int64_t count) {
  // One number for a block, and three for a skip and at the end.
  const int64_t numbers = CeilDivide(count, kBlockSteps) + 3 * (count / kLeastSkip + 1);
  return CeilDivide(numbers, 16) * 16;
}

// Where rows repeat their inputs, nobody knows how many timesteps they will compute: their gates go into blocks as they
// come, so that what is left of the memory is never touched.
void PlaceReserve(const Problem& problem, int64_t padded_units, Plan& plan) {
  const bool in_blocks = plan.repeats && problem.reserve == Reserve::kGates && !problem.reserve_by_row;
  for (Row& row : plan.rows) {
    row.reserve_offset =
        problem.reserve_by_row ? row.batch * problem.directions * ReserveStride(problem) : plan.parts_elements;
    const int64_t elements = ReserveElements(problem.reserve, row.count, padded_units);
    if (in_blocks && row.count >= kLeastSkip) row.table_elements = TableElements(row.count);
    plan.parts_elements += row.table_elements > 0 ? row.table_elements : elements;
    plan.reserve_elements += elements;
  }
}

}  // namespace

int64_t ExpectedTimesteps(const Row& row) { return row.count - std::max<int64_t>(0, row.repeated - kUsualOrbit); }

int64_t ReserveElements(Reserve mode, int64_t count, int64_t padded_units) {
  switch (mode) {
    case Reserve::kNone:
      return 0;
    case Reserve::kGates:
      if (count < kLeastSkip) return count * 5 * padded_units;
      return TableElements(count) + CeilDivide(count, kBlockSteps) * kBlockSteps * 5 * padded_units;
    case Reserve::kRecompute:
      return CeilDivide(count, kCheckpointInterval) * 2 * padded_units;
  }
  return 0;
}

int64_t ReserveStride(const Problem& problem) {
  return ReserveSteps(problem.reserve, problem.time) * ReserveStepBytes(problem.reserve, problem.dtype, problem.units) /
         std::max<int64_t>(4, SizeOf(problem.dtype));
}

Plan MakePlan(const Inputs& inputs, int64_t padded_units) {
  const Problem& problem = inputs.problem;
  const MaskByte* mask = inputs.mask;
  Plan plan;
  plan.rows.resize(static_cast<size_t>(problem.batch));
  const size_t time = static_cast<size_t>(problem.time);
  // Rows whose real timesteps are a prefix share the first `time` entries, 0, 1, 2, ...; others have their own list.
  size_t lists = 1;
  for (size_t b = 0; b < plan.rows.size(); ++b) {
    const MaskByte* of_row = mask ? mask + b * time : nullptr;
    const int64_t prefix = mask ? RealPrefix(of_row, problem.time) : problem.time;
    const bool holes = mask && AnyIsReal(of_row + prefix, problem.time - prefix);
    plan.rows[b] = {static_cast<int64_t>(b), holes ? kUncounted : prefix, nullptr, 0, 0, 0};
    lists += holes ? 1 : 0;
  }
  plan.steps.resize(time * lists);
  std::iota(plan.steps.begin(), plan.steps.begin() + problem.time, 0);
  int32_t* own = plan.steps.data() + time;
  for (size_t b = 0; b < plan.rows.size(); ++b) {
    Row& row = plan.rows[b];
    row.steps = plan.steps.data();
    if (row.count == kUncounted) {
      row.steps = own;
      row.count = ListRealTimesteps(mask + b * time, problem.time, own);
      own += time;
    }
    row.repeated = RepeatedSteps(inputs, row);
    plan.timesteps += row.count;
    plan.longest = std::max(plan.longest, row.count);
    plan.repeats = plan.repeats || row.repeated > 0;
  }
  PlaceReserve(problem, padded_units, plan);
  if (!mask && !plan.repeats) return plan;
  std::stable_sort(plan.rows.begin(), plan.rows.end(),
                   [](const Row& a, const Row& b) { return ExpectedTimesteps(a) > ExpectedTimesteps(b); });
  return plan;
}

}  // namespace lstm_fast
