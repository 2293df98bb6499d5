// What must be the same to the bit, whatever runs besides.
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "lstm_fast/isa.h"
#include "run.h"

namespace lstm_fast::testing {
namespace {

Options Shape(int64_t batch, int64_t time, int64_t input, int64_t units) {
  Options o;
  o.batch = batch;
  o.time = time;
  o.input = input;
  o.units = units;
  return o;
}

// Large enough for the kernels to use several threads: one tile, a few and many; teams of every kind; weights read in
// place.
std::vector<Options> LargeProblems() {
  std::vector<Options> problems = {Shape(9, 40, 24, 40),   Shape(37, 40, 24, 40), Shape(150, 20, 24, 40),
                                   Shape(2, 90, 40, 72),   Shape(1, 1, 500, 208), Shape(40, 30, 20, 64),
                                   Shape(14, 30, 20, 136), Shape(20, 12, 40, 264)};
  problems[0].dtype = DType::kBFloat16;
  problems[0].directions = 2;
  problems[1].masked = Masked::kHoles;
  problems[1].directions = 2;
  problems[2].masked = Masked::kRight;
  problems[3].masked = Masked::kHoles;
  problems[5].masked = Masked::kHoles;
  problems[5].input_dropout = problems[5].recurrent_dropout = true;
  problems[6].masked = Masked::kRight;
  problems[6].directions = 2;
  problems[6].projected = true;
  problems[7].h0 = false;
  return problems;
}

LSTM_FAST_TEST(bits_for_any_number_of_threads) {
  const Settings settings;
  for (Options o : LargeProblems()) {
    for (const Reserve reserve : {Reserve::kNone, Reserve::kGates, Reserve::kRecompute}) {
      o.reserve = reserve;
      const Case problem(o);
      SetThreadCount(1);
      Outputs alone(problem);
      alone.Run(problem);
      for (const int threads : {2, 3, 5, 8, 16, 64}) {
        if (kUnderTsan && threads > 5) continue;  // minutes of waiting for each other
        SetThreadCount(threads);
        Outputs together(problem);
        together.Run(problem);
        together.ExpectWhole();
        together.ExpectSameBits(alone, std::to_string(threads) + " threads, " + Describe(o));
      }
    }
  }
}

// The threads of the caller's own, one after the other: nobody may rely on more than the contract of Parallel.
class OneByOne final : public Parallel {
 public:
  int threads() const override { return 7; }
  void Run(int64_t count, void (*task)(void*, int64_t), void* context) override {
    for (int64_t i = count - 1; i >= 0; --i) task(context, i);
  }
  void RunTogether(int, std::chrono::microseconds, void (*task)(void*, int, int), void* context) override {
    task(context, 0, 1);
  }
};

LSTM_FAST_TEST(bits_on_threads_of_the_callers_own) {
  for (const Options& o : LargeProblems()) {
    const Case problem(o);
    Outputs own(problem), others(problem);
    own.Run(problem);
    OneByOne parallel;
    others.Run(problem, parallel);
    others.ExpectSameBits(own, "one by one, " + Describe(o));
  }
}

// So many threads whenever they are wanted, on however few processors; of a team some may be missing.
class AsManyAsWanted final : public Parallel {
 public:
  explicit AsManyAsWanted(int threads, int missing = 0) : threads_(threads), missing_(missing) {}
  int threads() const override { return threads_; }
  void Run(int64_t count, void (*task)(void*, int64_t), void* context) override {
    Start(static_cast<int>(std::min<int64_t>(count, threads_)), [=](int rank, int size) {
      for (int64_t i = rank; i < count; i += size) task(context, i);
    });
  }
  void RunTogether(int wanted, std::chrono::microseconds, void (*task)(void*, int, int), void* context) override {
    Start(std::max(1, wanted - missing_), [=](int rank, int size) { task(context, rank, size); });
  }

 private:
  template <class Function>
  static void Start(int size, const Function& function) {
    std::vector<std::thread> others;
    for (int rank = 1; rank < size; ++rank) others.emplace_back([=] { function(rank, size); });
    if (size > 0) function(0, size);
    for (std::thread& other : others) other.join();
  }

  const int threads_, missing_;
};

LSTM_FAST_TEST(bits_of_teams_of_any_size) {
  std::vector<Options> problems = LargeProblems();
  problems.push_back(Shape(6, 160, 20, 136));
  problems.back().repeated = Repeated::kEnd;
  problems.push_back(Shape(20, 30, 20, 72));
  problems.back().dtype = DType::kFloat64;
  problems.push_back(Shape(34, 30, 20, 64));
  problems.back().dtype = DType::kBFloat16;
  problems.push_back(Shape(70, 160, 6, 24));  // directions side by side where there are more threads than slots
  problems.back().repeated = Repeated::kEnd;
  problems.back().directions = 2;
  problems.push_back(Shape(64, 90, 20, 64));  // teams of unequal size
  problems.back().masked = Masked::kRight;
  for (Options o : problems) {
    for (const Reserve reserve : {Reserve::kGates, Reserve::kRecompute}) {
      o.reserve = reserve;
      const Case problem(o);
      AsManyAsWanted one(1);
      Outputs alone(problem), together(problem);
      alone.Run(problem, one);
      for (const int threads : {2, 4, 7, 12, 33}) {
        if (kUnderTsan && threads > 7) continue;
        AsManyAsWanted many(threads);
        together.Run(problem, many);
        together.ExpectWhole();
        together.ExpectSameBits(alone, std::to_string(threads) + " threads together, " + Describe(o));
      }
    }
  }
}

// Teams of which some threads came too late: they are smaller, or there are none.
LSTM_FAST_TEST(bits_of_teams_that_lack_threads) {
  std::vector<Options> problems = {Shape(1, 40, 20, 136), Shape(20, 40, 20, 136), Shape(64, 60, 20, 72)};
  problems.back().masked = Masked::kRight;
  for (const Options& o : problems) {
    const Case problem(o);
    AsManyAsWanted one(1);
    Outputs alone(problem), together(problem);
    alone.Run(problem, one);
    for (const int threads : {2, 7, 16}) {
      if (kUnderTsan && threads > 7) continue;
      for (int missing = 1; missing < threads; missing += 1 + missing / 2) {
        AsManyAsWanted some(threads, missing);
        together.Run(problem, some);
        together.ExpectWhole();
        together.ExpectSameBits(
            alone, std::to_string(missing) + " of " + std::to_string(threads) + " threads missing, " + Describe(o));
      }
    }
  }
}

LSTM_FAST_TEST(bits_of_several_callers_at_once) {
  const Settings settings;
  SetThreadCount(3);
  std::vector<std::thread> callers;
  std::vector<std::string> errors(6);
  for (size_t n = 0; n < errors.size(); ++n) {
    callers.emplace_back([n, &error = errors[n]] {
      try {
        Options o = Shape(3 + static_cast<int64_t>(n) * 5, 30, 12, 24 + static_cast<int64_t>(n) * 10);
        o.masked = n % 2 ? Masked::kHoles : Masked::kNo;
        o.seed = n;
        const Case problem(o);
        Outputs first(problem), again(problem);
        first.Run(problem);
        for (int i = 0; i < 6; ++i) {
          again.Run(problem);
          again.ExpectSameBits(first, "caller " + std::to_string(n));
        }
        first.ExpectClose(problem, Solve(problem));
      } catch (const std::exception& failure) {
        error = failure.what();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const std::string& error : errors) Expect(error.empty(), error);
}

// A mask is a byte for each timestep: 0 is padding, and whatever else is real.
LSTM_FAST_TEST(any_byte_but_0_is_a_real_timestep) {
  const Settings settings;
  for (const std::string& isa : AvailableIsas()) {
    SetIsa(isa);
    for (const Masked masked : {Masked::kNothing, Masked::kRight, Masked::kLeft, Masked::kHoles}) {
      for (const Reserve reserve : {Reserve::kNone, Reserve::kGates, Reserve::kRecompute}) {
        Options o = Shape(4, 200, 3, 5);
        o.masked = masked;
        o.reserve = reserve;
        const Case ones(o);
        Outputs expected(ones);
        expected.Run(ones);
        for (const uint8_t byte : {uint8_t{2}, uint8_t{128}, uint8_t{255}, uint8_t{0}}) {  // 0: any of them
          o.real_byte = byte;
          const Case problem(o);
          Outputs outputs(problem);
          Expect(outputs.reserve_bytes() == expected.reserve_bytes(), "the reserve has another size");
          outputs.Run(problem);
          outputs.ExpectWhole();
          outputs.ExpectSameBits(expected, isa + ", real is " + std::to_string(byte) + ", " + Describe(o));
        }
      }
    }
  }
}

LSTM_FAST_TEST(a_misaligned_array_gives_the_same_bits) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    Options o = Shape(5, 18, 16, 32);
    o.dtype = dtype;
    o.directions = 2;
    const Case aligned(o);
    Outputs expected(aligned);
    expected.Run(aligned);
    for (const int shift : {1, 2, 3}) {
      o.shift = shift;
      const Case problem(o);
      Outputs outputs(problem);
      outputs.Run(problem);
      outputs.ExpectSameBits(expected, Describe(o));
    }
  }
}

LSTM_FAST_TEST(how_x_lies_in_memory_does_not_matter) {
  for (const bool projected : {false, true}) {
    Options o = Shape(5, 18, 7, 9);
    o.projected = projected;
    o.directions = 2;
    const Case dense(o);
    Outputs expected(dense);
    expected.Run(dense);
    for (const Layout layout : {Layout::kGaps, Layout::kTimeMajor, Layout::kBackward}) {
      o.layout = layout;
      const Case problem(o);
      Outputs outputs(problem);
      outputs.Run(problem);
      outputs.ExpectSameBits(expected, Describe(o));
    }
  }
}

}  // namespace
}  // namespace lstm_fast::testing
