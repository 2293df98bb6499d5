// What both passes compute, write and leave alone.
#include <cmath>

#include "lstm_fast/isa.h"
#include "run.h"
#include "test.h"

namespace lstm_fast::test {
namespace {

constexpr Sizes kSmall = {9, 12, 20, 36}, kLarger = {40, 40, 70, 140};

// The failures of a case are told with the case.
template <class Function>
void ForCases(uint64_t first, int count, const Sizes& most, const Function& function) {
  for (int i = 0; i < count; ++i) {
    Bytes bytes(BytesOfSeed(first + static_cast<uint64_t>(i)));
    Case c = MakeCase(bytes, most);
    try {
      function(c);
    } catch (const Failure& failure) {
      throw Failure("seed " + std::to_string(first + static_cast<uint64_t>(i)) + ": " + c.Words() + ": " +
                    failure.what());
    }
  }
}

TEST(small_problems_are_the_reference) {
  ForCases(1, 600, kSmall, [](const Case& c) { Compare(c, Run(c)); });
}

TEST(larger_problems_are_the_reference) {
  ForCases(10'001, 25, kLarger, [](const Case& c) { Compare(c, Run(c)); });
}

TEST(every_element_of_every_output_is_written) {
  ForCases(20'001, 150, kSmall,
           [](const Case& c) { Check(Run(c, 0x00) == Run(c, 0xff), "what was there before shows"); });
}

TEST(bits_do_not_depend_on_threads) {
  ForCases(30'001, 40, kLarger, [](Case& c) {
    c.threads = 1;
    const Outputs alone = Run(c);
    for (int threads : {2, 3, 5, 8, 16}) {
      c.threads = threads;
      Check(Run(c) == alone, "other bits with " + std::to_string(threads) + " threads");
    }
  });
}

TEST(any_byte_of_a_mask_but_0_is_real) {
  int masked = 0;
  ForCases(40'001, 200, kSmall, [&](Case& c) {
    if (c.mask.empty()) return;
    ++masked;
    const Outputs mixed = Run(c);
    for (MaskByte& byte : c.mask) byte = TimestepIsReal(byte) ? 1 : 0;
    Check(Run(c) == mixed, "other bits where true is 1");
  });
  Check(masked > 50, "too few masks");
}

TEST(what_is_not_a_number_stays_in_its_row) {
  int tried = 0;
  ForCases(50'001, 200, kSmall, [&](Case& c) {
    const Problem& p = c.problem;
    if (p.batch < 2 || p.time == 0 || p.input == 0 || !c.Real(0, 0)) return;
    ++tried;
    const Outputs before = Run(c, 0xcb, false);
    const double poison = tried % 2 ? std::nan("") : INFINITY;
    for (int64_t i = 0; i < p.input; ++i) c.x[static_cast<size_t>(i)] = poison;
    const Outputs after = Run(c, 0xcb, false);
    for (size_t n = 0; n < before.arrays.size(); ++n) {  // y, and h and c: all begin with the batch
      const auto &old = before.arrays[n], &now = after.arrays[n];
      const auto row = static_cast<std::ptrdiff_t>(old.size() / static_cast<size_t>(p.batch));
      Check(std::equal(old.begin() + row, old.end(), now.begin() + row), "another row has other bits");
    }
  });
  Check(tried > 30, "too few problems");
}

}  // namespace
}  // namespace lstm_fast::test
