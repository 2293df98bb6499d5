// Timesteps in which all gradients are zero are passed over, and nothing shows it.
#include <string>
#include <vector>

#include "check.h"
#include "lstm_fast/isa.h"
#include "run.h"

namespace lstm_fast::testing {
namespace {

Options Vanishing(int64_t batch = 14, int64_t units = 33) {
  Options o;
  o.batch = batch;
  o.time = 160;
  o.input = 6;
  o.units = units;
  o.vanishing = true;
  return o;
}

std::vector<Options> Problems() {
  std::vector<Options> problems(1, Vanishing());
  const auto add = [&](const auto& change) {
    problems.push_back(Vanishing());
    change(problems.back());
  };
  add([](Options& o) { o.directions = 2; });
  add([](Options& o) { o.return_sequences = false; });
  add([](Options& o) { o.projected = true; });
  add([](Options& o) { o.input_dropout = o.recurrent_dropout = true; });
  add([](Options& o) { o.masked = Masked::kHoles; });
  add([](Options& o) { o.masked = Masked::kLeft, o.go_backwards = true; });
  add([](Options& o) { o.repeated = Repeated::kEnd, o.directions = 2, o.time = 400; });
  add([](Options& o) { o.repeated = Repeated::kTwice, o.units = 136, o.time = 640; });
  add([](Options& o) { o.dtype = DType::kFloat64, o.time = 400; });
  // A team's leader looks for zeros while others finish the products of a chunk.
  add([](Options& o) { o.dtype = DType::kFloat16, o.batch = 16, o.time = 400, o.input = 100; });
  add([](Options& o) { o.dtype = DType::kBFloat16, o.h0 = o.c0 = false; });
  return problems;
}

LSTM_FAST_TEST(zeros_are_passed_over_and_nothing_shows_it) {
  if (kUnderTsan) throw Skipped("one thread after the other: nothing for ThreadSanitizer");
  const Settings settings;
  for (Options o : Problems()) {
    const Solution exact = Solve(Case(o));
    for (const std::string& isa : AvailableIsas()) {
      SetIsa(isa);
      for (const Reserve reserve : {Reserve::kNone, Reserve::kGates, Reserve::kRecompute}) {
        o.reserve = reserve;
        const Case problem(o);
        SetSkipsRepeats(false);
        const int64_t before = TimestepsWithoutGradient();
        RunAndCheck(problem, exact);
        Expect(TimestepsWithoutGradient() == before, "nothing is passed over where that is turned off");
        SetSkipsRepeats(true);
        RunAndCheck(problem, exact);
        Expect(TimestepsWithoutGradient() > before, "something is passed over: " + isa + ", " + Describe(o));
      }
    }
  }
}

LSTM_FAST_TEST(zeros_have_the_same_bits_for_any_number_of_threads) {
  const Settings settings;
  SetSkipsRepeats(true);
  for (const Options& o : Problems()) {
    const Case problem(o);
    SetThreadCount(1);
    const int64_t before = TimestepsWithoutGradient();
    Outputs alone(problem);
    alone.Run(problem);
    Expect(TimestepsWithoutGradient() > before, "something is passed over: " + Describe(o));
    for (const int threads : {2, 3, 8}) {
      SetThreadCount(threads);
      Outputs together(problem);
      together.Run(problem);
      together.ExpectWhole();
      together.ExpectSameBits(alone, std::to_string(threads) + " threads, " + Describe(o));
    }
  }
}

LSTM_FAST_TEST(zeros_with_numbers_that_are_not_finite) {
  if (kUnderTsan) throw Skipped("one thread after the other: nothing for ThreadSanitizer");
  const Settings settings;
  for (const bool sequences : {false, true}) {
    for (uint64_t seed = 0; seed < 4; ++seed) {  // other timesteps and units
      Options o = Vanishing();
      if (seed % 2 == 0) o.units = 32;  // lanes beyond the last unit would let nobody pass
      o.return_sequences = sequences;
      o.seed = seed;
      CheckSpoiled(o);
    }
  }
}

}  // namespace
}  // namespace lstm_fast::testing
