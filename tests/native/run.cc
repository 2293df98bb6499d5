#include "run.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>
#include <utility>

#include "check.h"
#include "lstm_fast/isa.h"
#include "tolerance.h"

namespace lstm_fast::testing {

Outputs::Outputs(const Case& problem) : options_(problem.options) {
  const Options& o = options_;
  const int64_t size = SizeOf(o.dtype);
  const Inputs inputs = problem.inputs();
  // Elements of the reserve have the type of the arithmetic.
  reserve_ = Guarded(ReserveBytes(inputs.problem, inputs.mask), o.shift * std::max<int64_t>(4, size));
  const auto add = [&](bool wanted, std::string name, int64_t count, bool by_row, bool of_weights, auto exact,
                       auto tolerance) -> void* {
    if (!wanted) return nullptr;
    arrays_.push_back({std::move(name), Guarded(count * size, o.shift * size), by_row, of_weights, exact, tolerance});
    return arrays_.back().array.data();
  };
  const int64_t steps = o.return_sequences ? o.time : 1, states = o.batch * o.units;
  forward_.y = add(
      true, "y", o.batch * steps * o.directions * o.units, true, false,
      [](const Solution& s) -> const auto& { return s.y; }, [](const Tolerance& t) { return t.y; });
  backward_.dx = add(
      o.dx, "dx", o.batch * o.time * problem.features, true, false,
      [](const Solution& s) -> const auto& { return s.dx; }, [](const Tolerance& t) { return t.dx; });
  for (int n = 0; n < o.directions; ++n) {
    const auto part = [&](bool wanted, const char* name, int64_t count, bool by_row, auto exact, auto tolerance) {
      return add(
          wanted, name + ("[" + std::to_string(n) + "]"), count, by_row, !by_row,
          [n, exact](const Solution& s) -> const std::vector<double>& { return s.direction[n].*exact; },
          [n, tolerance](const Tolerance& t) { return t.direction[n].*tolerance; });
    };
    using S = Solution::Direction;
    using E = Tolerance::Direction;
    const int64_t gates = 4 * o.units;
    forward_.h_n[n] = part(true, "h_n", states, true, &S::h_n, &E::h_n);
    forward_.c_n[n] = part(true, "c_n", states, true, &S::c_n, &E::c_n);
    backward_.dkernel[n] =
        part(o.dweights && !o.projected, "dkernel", problem.features * gates, false, &S::dkernel, &E::dkernel);
    backward_.drecurrent_kernel[n] =
        part(o.dweights, "drecurrent_kernel", o.units * gates, false, &S::drecurrent_kernel, &E::drecurrent_kernel);
    backward_.dbias[n] = part(o.dbias, "dbias", gates, false, &S::dbias, &E::dbias);
    backward_.dh0[n] = part(o.dstates, "dh0", states, true, &S::dh0, &E::dh0);
    backward_.dc0[n] = part(o.dstates, "dc0", states, true, &S::dc0, &E::dc0);
  }
  forward_.reserve = reserve_.bytes() > 0 ? reserve_.data() : nullptr;
}

void Outputs::Run(const Case& problem, Parallel& parallel, const std::function<void()>& between) {
  for (Named& named : arrays_) named.array.Clear();
  reserve_.Clear();
  const Inputs inputs = problem.inputs();
  Forward(inputs, forward_, parallel);
  between();
  Backward(inputs, problem.gradients(forward_.reserve), backward_, parallel);
}

void Outputs::ExpectWhole() const {
  if (!reserve_.GuardsAreWhole()) Fail("reserve: written outside of the array");
  const int64_t size = SizeOf(options_.dtype);
  char unwritten[8];
  for (int64_t i = 0; i < size; i += 2) std::memcpy(unwritten + i, &Guarded::kUnwritten, 2);
  for (const Named& named : arrays_) {
    if (!named.array.GuardsAreWhole()) Fail(named.name + ": written outside of the array");
    for (int64_t i = 0; i < named.array.bytes(); i += size) {
      if (std::memcmp(named.array.data() + i, unwritten, static_cast<size_t>(size)) != 0) continue;
      Fail(named.name + ": element " + std::to_string(i / size) + " was not written");
    }
  }
}

int64_t Outputs::untouched_reserve_bytes() const {
  int64_t end = reserve_.bytes();
  while (end >= 2 && std::memcmp(reserve_.data() + end - 2, &Guarded::kUnwritten, 2) == 0) end -= 2;
  return reserve_.bytes() - end;
}

void Outputs::ExpectClose(const Case& problem, const Solution& exact) const {
  const Tolerance tolerance = ToleranceOf(problem, exact);
  const bool spoiled = problem.SpoiledRow() >= 0, by_nan = spoiled && std::isnan(options_.spoiler);
  for (const Named& named : arrays_) {
    const std::vector<double>& expected = named.exact(exact);
    const double allowed = named.tolerance(tolerance);
    // Zero times a number that is not finite, before a first step from no state, is computed or left out.
    if (spoiled && !options_.h0 && named.name.rfind("drecurrent_kernel", 0) == 0) continue;
    if (static_cast<int64_t>(expected.size()) * SizeOf(options_.dtype) != named.array.bytes()) {
      Fail(named.name + ": the reference has another size");
    }
    for (size_t i = 0; i < expected.size(); ++i) {
      const double found = Decode(options_.dtype, named.array.data(), static_cast<int64_t>(i));
      // What an infinity becomes, in a sum or times a small number or zero, depends on the roundings.
      const bool close = std::isfinite(expected[i]) ? std::fabs(found - expected[i]) <= allowed
                         : by_nan                   ? std::isnan(found)
                                                    : !std::isfinite(found);
      if (close) continue;
      std::ostringstream what;
      what.precision(17);
      what << named.name << ": element " << i << " is " << found << ", not " << expected[i] << " +- " << allowed;
      Fail(what.str());
    }
  }
}

void Outputs::ExpectSameBits(const Outputs& other, const std::string& when, int64_t but_row) const {
  if (arrays_.size() != other.arrays_.size()) Fail(when + ": other arrays");
  for (size_t i = 0; i < arrays_.size(); ++i) {
    const Named &a = arrays_[i], &b = other.arrays_[i];
    if (a.name != b.name || a.array.bytes() != b.array.bytes()) Fail(when + ": " + a.name + " has another size");
    if (but_row >= 0 && a.of_weights) continue;
    const int64_t rows = a.by_row ? options_.batch : 1, bytes = rows > 0 ? a.array.bytes() / rows : 0;
    for (int64_t row = 0; row < rows; ++row) {
      if (row == but_row && a.by_row) continue;
      if (std::memcmp(a.array.data() + row * bytes, b.array.data() + row * bytes, static_cast<size_t>(bytes)) == 0) {
        continue;
      }
      Fail(when + ": " + a.name + " has other bits" + (a.by_row ? ", row " + std::to_string(row) : ""));
    }
  }
}

void Outputs::ExpectSameForwardBits(const Outputs& other, const std::string& when) const {
  for (size_t i = 0; i < arrays_.size(); ++i) {
    const Named &a = arrays_[i], &b = other.arrays_[i];
    if (a.name != "y" && a.name.rfind("h_n", 0) != 0 && a.name.rfind("c_n", 0) != 0) continue;
    if (a.array.bytes() == b.array.bytes() &&
        (a.array.bytes() == 0 ||
         std::memcmp(a.array.data(), b.array.data(), static_cast<size_t>(a.array.bytes())) == 0)) {
      continue;
    }
    Fail(when + ": " + a.name + " has other bits");
  }
}

Outputs RunAndCheck(const Case& problem, const Solution& exact) {
  Outputs outputs(problem);
  outputs.Run(problem);
  outputs.ExpectWhole();
  outputs.ExpectClose(problem, exact);
  return outputs;
}

void CheckSpoiled(Options options) {
  for (const Spoiled spoiled : {Spoiled::kX, Spoiled::kState, Spoiled::kCell, Spoiled::kGradient}) {
    for (const double spoiler : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
      options.spoiled = spoiled;
      options.spoiler = spoiler;
      const Case problem(options);
      RunAndCheck(problem, Solve(problem));
    }
  }
}

int64_t SkippedTimesteps() {
  const TimestepCounts counts = GetTimestepCounts();
  return counts.given - counts.computed;
}

int64_t TimestepsWithoutGradient() { return GetTimestepCounts().without_gradient; }

Settings::Settings() : isa_(ActiveIsa()), threads_(ThreadCount()), skips_repeats_(SkipsRepeats()) {}

Settings::~Settings() {
  SetIsa(isa_);
  SetThreadCount(threads_);
  SetSkipsRepeats(skips_repeats_);
}

}  // namespace lstm_fast::testing
