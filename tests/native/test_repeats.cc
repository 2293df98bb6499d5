// Timesteps that repeat others of their row are left out, and nothing shows it.
#include <string>
#include <vector>

#include "check.h"
#include "lstm_fast/isa.h"
#include "run.h"

namespace lstm_fast::testing {
namespace {

Options Repeating(Repeated repeated, int64_t batch = 5, int64_t input = 6, int64_t units = 9) {
  Options o;
  o.batch = batch;
  o.time = repeated == Repeated::kTwice ? 640 : 320;
  o.input = input;
  o.units = units;
  o.repeated = repeated;
  return o;
}

// Rows that go through skips by themselves and rows that do so together; one tile and several; every kind of reserve.
std::vector<Options> Problems() {
  std::vector<Options> problems;
  for (const Repeated repeated : {Repeated::kEnd, Repeated::kBeginning, Repeated::kMiddle, Repeated::kTwice}) {
    problems.push_back(Repeating(repeated));
    problems.back().directions = 2;
    problems.push_back(Repeating(repeated, 3, 20, 136));
  }
  problems.push_back(Repeating(Repeated::kEnd, 40));
  problems.push_back(Repeating(Repeated::kEnd));
  problems.back().return_sequences = problems.back().dc_n = false;
  problems.push_back(Repeating(Repeated::kMiddle));
  problems.back().input_dropout = problems.back().recurrent_dropout = true;
  problems.push_back(Repeating(Repeated::kEnd));
  problems.back().projected = true;
  problems.push_back(Repeating(Repeated::kEnd));
  problems.back().masked = Masked::kHoles;
  problems.back().real_byte = 0;
  problems.push_back(Repeating(Repeated::kEnd, 7));
  problems.back().masked = Masked::kRight;
  problems.back().zero_output_for_mask = true;
  problems.push_back(Repeating(Repeated::kBeginning));
  problems.back().dtype = DType::kBFloat16;
  problems.back().h0 = problems.back().c0 = false;
  return problems;
}

LSTM_FAST_TEST(repeats_are_left_out_and_nothing_shows_it) {
  if (kUnderTsan) throw Skipped("one thread after the other: nothing for ThreadSanitizer");
  const Settings settings;
  for (Options o : Problems()) {
    Options by_row = o;
    by_row.reserve_by_row = true;
    const Solution exact = Solve(Case(o));
    for (const std::string& isa : AvailableIsas()) {
      SetIsa(isa);
      for (const Reserve reserve : {Reserve::kNone, Reserve::kGates, Reserve::kRecompute}) {
        o.reserve = by_row.reserve = reserve;
        const Case problem(o);
        SetSkipsRepeats(false);
        const int64_t before = SkippedTimesteps();
        const Outputs all = RunAndCheck(problem, exact);
        Expect(SkippedTimesteps() == before, "nothing is left out where that is turned off");
        SetSkipsRepeats(true);
        const Outputs found = RunAndCheck(problem, exact);
        Expect(SkippedTimesteps() > before, "something is left out: " + isa + ", " + Describe(o));
        found.ExpectSameForwardBits(all, isa + ", " + Describe(o));
        const Case same(by_row);
        Outputs rows(same);
        rows.Run(same);
        rows.ExpectSameBits(found, isa + ", " + Describe(by_row));
      }
    }
  }
}

LSTM_FAST_TEST(repeats_have_the_same_bits_for_any_number_of_threads) {
  const Settings settings;
  for (Options o : Problems()) {
    for (const Reserve reserve : {Reserve::kGates, Reserve::kRecompute}) {
      o.reserve = reserve;
      const Case problem(o);
      SetThreadCount(1);
      Outputs alone(problem);
      alone.Run(problem);
      for (const int threads : {2, 3, 8}) {
        SetThreadCount(threads);
        Outputs together(problem);
        together.Run(problem);
        together.ExpectWhole();
        together.ExpectSameBits(alone, std::to_string(threads) + " threads, " + Describe(o));
      }
    }
  }
}

// Whatever threads and tiles there are, and whichever rows have how much of it.
LSTM_FAST_TEST(what_is_left_out_takes_no_room_in_the_reserve) {
  const Settings settings;
  for (const Repeated repeated : {Repeated::kEnd, Repeated::kBeginning, Repeated::kMiddle, Repeated::kTwice}) {
    for (const Masked masked : {Masked::kNo, Masked::kRight}) {
      Options o = Repeating(repeated, 16);
      o.directions = 2;
      o.masked = masked;
      const Case problem(o);
      for (const int threads : {1, 3}) {
        SetThreadCount(threads);
        SetSkipsRepeats(false);
        Outputs all(problem);
        all.Run(problem);
        SetSkipsRepeats(true);
        const int64_t before = SkippedTimesteps();
        Outputs found(problem);
        found.Run(problem);
        // Memory is taken for 8 timesteps of a row at once.
        const int64_t skipped = SkippedTimesteps() - before, step = 5 * o.units * static_cast<int64_t>(sizeof(float));
        const int64_t spared = found.untouched_reserve_bytes() - all.untouched_reserve_bytes();
        Expect(spared >= (skipped - 8 * o.batch * o.directions) * step,
               Describe(o) + ": of " + std::to_string(skipped * step) + " only " + std::to_string(spared) +
                   " bytes are untouched");
      }
    }
  }
}

// A backward pass finds out by itself what its forward pass has left out.
LSTM_FAST_TEST(the_setting_may_change_between_the_passes) {
  const Settings settings;
  const Options o = Repeating(Repeated::kMiddle);
  const Case problem(o);
  SetSkipsRepeats(true);
  Outputs usual(problem), changed(problem);
  usual.Run(problem);
  changed.Run(problem, OwnThreads(), [] { SetSkipsRepeats(false); });
  changed.ExpectSameBits(usual, Describe(o));
}

LSTM_FAST_TEST(repeats_with_numbers_that_are_not_finite) {
  for (const Repeated repeated : {Repeated::kEnd, Repeated::kBeginning, Repeated::kTwice}) {
    for (const Reserve reserve : {Reserve::kGates, Reserve::kRecompute}) {
      Options o = Repeating(repeated);
      o.reserve = reserve;
      CheckSpoiled(o);
    }
  }
}

}  // namespace
}  // namespace lstm_fast::testing
