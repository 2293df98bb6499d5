// Both passes against the reference: every instruction set, dtype, option and awkward size.
#include <array>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "lstm_fast/isa.h"
#include "run.h"

namespace lstm_fast::testing {
namespace {

// B, T, D, H. One less and one more than the lanes of a vector (2 to 16), the lanes themselves, and primes; 16
// timesteps lie between two checkpoints.
constexpr std::array<std::array<int64_t, 4>, 26> kShapes = {{
    {0, 3, 4, 5},   {3, 0, 4, 5},    {0, 0, 1, 1},   {1, 1, 1, 1},   {2, 1, 3, 2},     {1, 2, 0, 3},   {5, 1, 16, 16},
    {3, 2, 5, 4},   {2, 15, 7, 5},   {7, 16, 8, 7},  {4, 17, 9, 8},  {3, 33, 13, 9},   {8, 5, 15, 13}, {13, 3, 17, 15},
    {5, 7, 16, 16}, {6, 9, 2, 17},   {17, 4, 31, 3}, {9, 6, 33, 31}, {1, 37, 11, 32},  {3, 8, 1, 33},  {16, 8, 32, 16},
    {2, 3, 5, 48},  {19, 11, 6, 23}, {1, 9, 40, 64}, {33, 2, 3, 29}, {12, 12, 12, 12},
}};

constexpr std::array<DType, 4> kDTypes = {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16};

// Runs a problem on every instruction set; the reference is solved once.
void CheckOnEveryIsa(const Options& options) {
  const Settings settings;
  const Case problem(options);
  const Solution exact = Solve(problem);
  for (const std::string& isa : AvailableIsas()) {
    SetIsa(isa);
    try {
      RunAndCheck(problem, exact);
    } catch (const std::exception& error) {
      throw std::runtime_error(isa + ", " + Describe(options) + ": " + error.what());
    }
  }
}

// The i-th choice of everything but shape, dtype and what the reserve holds: numbers drawn from the seed, so that in
// some hundred problems any two options meet.
Options Choose(uint64_t seed) {
  Random random(seed);
  const auto coin = [&] { return random.Below(2) == 1; };
  Options o;
  o.seed = seed;
  o.directions = coin() ? 2 : 1;
  o.projected = random.Below(4) == 0;
  o.go_backwards = coin();
  o.return_sequences = coin();
  o.zero_output_for_mask = coin();
  o.reserve_by_row = random.Below(3) == 0;
  o.bias = random.Below(4) != 0;
  o.h0 = coin();
  o.c0 = coin();
  o.input_dropout = random.Below(4) == 0;
  o.recurrent_dropout = random.Below(4) == 0;
  o.dy = random.Below(8) != 0;
  o.dh_n = random.Below(4) != 0;
  o.dc_n = random.Below(4) != 0;
  o.dx = random.Below(8) != 0;
  o.dweights = random.Below(8) != 0;
  o.dbias = random.Below(8) != 0;
  o.dstates = random.Below(8) != 0;
  o.layout = static_cast<Layout>(random.Below(static_cast<int64_t>(Layout::kCount)));
  o.shift = static_cast<int>(random.Below(3));
  o.masked = static_cast<Masked>(random.Below(static_cast<int64_t>(Masked::kCount)));
  o.nan_in_padding = coin();
  return o;
}

void CheckShapes(DType dtype) {
  uint64_t seed = 1000 * static_cast<uint64_t>(dtype);
  for (const auto& [batch, time, input, units] : kShapes) {
    for (const Reserve reserve : {Reserve::kNone, Reserve::kGates, Reserve::kRecompute}) {
      Options o = Choose(++seed);
      o.dtype = dtype;
      o.batch = batch;
      o.time = time;
      o.input = input;
      o.units = units;
      o.reserve = reserve;
      CheckOnEveryIsa(o);
    }
  }
}

LSTM_FAST_TEST(parity_float32) { CheckShapes(DType::kFloat32); }
LSTM_FAST_TEST(parity_float64) { CheckShapes(DType::kFloat64); }
LSTM_FAST_TEST(parity_float16) { CheckShapes(DType::kFloat16); }
LSTM_FAST_TEST(parity_bfloat16) { CheckShapes(DType::kBFloat16); }

// Each option by itself and with two directions, where a test can say which one is at fault.
LSTM_FAST_TEST(parity_option_by_option) {
  const std::vector<void (*)(Options&)> changes = {
      [](Options&) {},
      [](Options& o) { o.go_backwards = true; },
      [](Options& o) { o.return_sequences = false; },
      [](Options& o) { o.zero_output_for_mask = true; },
      [](Options& o) { o.zero_output_for_mask = o.nan_in_padding = true; },
      [](Options& o) { o.projected = true; },
      [](Options& o) { o.reserve_by_row = true; },
      [](Options& o) { o.reserve = Reserve::kNone; },
      [](Options& o) { o.reserve = Reserve::kRecompute; },
      [](Options& o) { o.bias = false; },
      [](Options& o) { o.h0 = o.c0 = false; },
      [](Options& o) { o.input_dropout = true; },
      [](Options& o) { o.recurrent_dropout = true; },
      [](Options& o) { o.dy = false; },
      [](Options& o) { o.dh_n = o.dc_n = false; },
      [](Options& o) { o.dx = false; },
      [](Options& o) { o.dweights = o.dbias = false; },
      [](Options& o) { o.dstates = false; },
      [](Options& o) { o.layout = Layout::kGaps; },
      [](Options& o) { o.layout = Layout::kTimeMajor; },
      [](Options& o) { o.layout = Layout::kBackward; },
      [](Options& o) { o.shift = 1; },
      [](Options& o) { o.nan_in_padding = true; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    for (const DType dtype : kDTypes) {
      for (int64_t masked = 0; masked < static_cast<int64_t>(Masked::kCount); ++masked) {
        Options o;
        o.dtype = dtype;
        o.batch = 4;
        o.time = 18;
        o.directions = 1 + static_cast<int>(masked + static_cast<int64_t>(dtype)) % 2;
        o.masked = static_cast<Masked>(masked);
        o.seed = i;
        changes[i](o);
        CheckOnEveryIsa(o);
      }
    }
  }
}

// Shapes for which the schedule does something else: read the weights where they lie, cut more tiles, add up in slots,
// share a tile's units among threads.
LSTM_FAST_TEST(parity_of_every_schedule) {
  const auto check = [](std::array<int64_t, 4> shape, DType dtype, const Options& base) {
    Options o = base;
    o.batch = shape[0];
    o.time = shape[1];
    o.input = shape[2];
    o.units = shape[3];
    o.dtype = dtype;
    CheckOnEveryIsa(o);
  };
  const Settings settings;
  SetThreadCount(4);
  Options plain, ragged;
  ragged.masked = Masked::kHoles;
  ragged.directions = 2;
  check({1, 1, 21, 48}, DType::kFloat32, plain);
  check({5, 1, 21, 32}, DType::kFloat64, ragged);
  check({70, 12, 9, 17}, DType::kFloat32, ragged);
  check({150, 5, 9, 17}, DType::kBFloat16, plain);
  check({2, 90, 30, 72}, DType::kFloat32, plain);
  check({3, 70, 10, 50}, DType::kFloat64, ragged);
  check({1, 1, 300, 160}, DType::kFloat32, plain);
  check({37, 20, 24, 40}, DType::kFloat16, ragged);
}

LSTM_FAST_TEST(every_isa_runs_its_own_code) {
  // One unit fills one vector, so the size of what is kept tells how many lanes the code that runs has. With as many
  // lanes as the portable code, NEON still fuses products and sums, which shows in the bits.
  const Settings settings;
  Options one, many;
  one.units = 1;
  many.input = 31;
  many.units = 33;
  const Case problem(many);
  std::vector<Outputs> found;
  std::string before;
  int64_t last = 0;
  for (const std::string& isa : AvailableIsas()) {
    SetIsa(isa);
    const int64_t bytes = Outputs(Case(one)).reserve_bytes();
    Outputs outputs(problem);
    outputs.Run(problem);
    bool differs = bytes > last;
    if (bytes == last) {
      try {
        outputs.ExpectSameForwardBits(found.back(), isa);
      } catch (const std::exception&) {
        differs = true;
      }
    }
    Expect(differs, isa + ": keeps " + std::to_string(bytes) + " bytes and computes the same bits as " + before);
    found.push_back(std::move(outputs));
    before = isa;
    last = bytes;
  }
  for (const std::string& isa : CompiledIsas()) {
    bool available = false;
    for (const std::string& other : AvailableIsas()) available |= isa == other;
    if (!available) throw Skipped("this processor has no " + isa + ": its kernels were not tested");
  }
}

}  // namespace
}  // namespace lstm_fast::testing
