// How passes are cut for many threads, by arithmetic: a machine with two processors shows here what 64 would do.
// native_tests --table cuts prints it all.
#include <cstdio>
#include <ctime>
#include <initializer_list>
#include <string>

#include "check.h"
#include "cpu/cuts.h"

namespace lstm_fast::testing {
namespace {

// A layer with as many features as units, in float32, with vectors of so many lanes.
Work Layer(int64_t batch, int64_t units, int64_t lanes, int64_t directions = 1) {
  Work work{};
  work.batch = batch;
  work.time = 256;
  work.directions = directions;
  work.units = work.kernel_rows = units;
  work.panels = (units + lanes - 1) / lanes;
  work.width = 4 * lanes;
  work.micro_rows = lanes == 16 ? 6 : 3;
  work.element_bytes = 4;
  work.timesteps = batch * work.time;
  work.fits_in_place = units % lanes == 0;
  return work;
}

// Rows as unequal as reviews that are padded to the longest of their batch: a quarter of the timesteps is real.
Work Padded(Work work) {
  work.masked = true;
  work.timesteps = 0;
  for (int64_t row = 0; row < work.batch; ++row) {
    const double share = 1 - static_cast<double>(row) / static_cast<double>(work.batch);
    work.of_rows.push_back(static_cast<int64_t>(static_cast<double>(work.time) * share * share * share));
    work.timesteps += work.of_rows.back();
  }
  return work;
}

Estimate Forward(const Work& work, int64_t threads) { return EstimateForward(work, CutForward(work, threads)); }

Estimate Backward(const Work& work, int64_t threads) { return EstimateBackward(work, CutBackward(work, threads)); }

constexpr auto kBatches = {1, 8, 16, 32, 64, 128, 256, 512};
constexpr auto kUnits = {16, 32, 64, 128, 256, 512, 1024};
constexpr auto kThreads = {1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64};

void PrintLine(const Work& work) {
  for (const bool forward : {true, false}) {
    std::printf("\n%4lld %5lld  %s", static_cast<long long>(work.batch), static_cast<long long>(work.units),
                forward ? "forward " : "backward");
    for (const int64_t threads : kThreads) {
      const Estimate estimate = forward ? Forward(work, threads) : Backward(work, threads);
      std::printf("  %3lld %4.2f", static_cast<long long>(estimate.working), estimate.Efficiency(threads));
    }
  }
}

const Table table("cuts", [] {
  std::printf("Threads that work, and the share of their time that is work, by arithmetic: T = 256, D = H, float32,\n");
  std::printf("AVX-512. No machine was asked.\n\n%4s %5s  pass    ", "B", "H");
  for (const int64_t threads : kThreads) std::printf(" %9lld", static_cast<long long>(threads));
  for (const int64_t batch : kBatches) {
    for (const int64_t units : kUnits) PrintLine(Layer(batch, units, 16));
  }
  std::printf("\n\nThe same where three quarters of the timesteps are padding, in both directions.\n");
  for (const int64_t batch : {64, 256}) {
    for (const int64_t units : kUnits) PrintLine(Padded(Layer(batch, units, 16, 2)));
  }
  std::printf("\n\nIn one direction.\n");
  for (const int64_t batch : {64, 256}) {
    for (const int64_t units : kUnits) PrintLine(Padded(Layer(batch, units, 16)));
  }
  std::printf("\n");
});

LSTM_FAST_TEST(cuts_use_no_more_threads_than_there_are) {
  for (const int64_t lanes : {4, 8, 16}) {
    for (int64_t batch = 1; batch <= 512; batch += batch < 16 ? 1 : 7) {
      for (const int64_t units : kUnits) {
        for (int64_t threads = 1; threads <= 64; ++threads) {
          for (const int64_t directions : {1, 2}) {
            const Work work = Layer(batch, units, lanes, directions);
            for (const Estimate& estimate : {Forward(work, threads), Backward(work, threads)}) {
              Expect(estimate.working >= 1 && estimate.working <= threads,
                     std::to_string(estimate.working) + " of " + std::to_string(threads) +
                         " threads work, B = " + std::to_string(batch) + ", H = " + std::to_string(units));
            }
          }
        }
      }
    }
  }
}

// How much of many threads' time must be work, by arithmetic.
LSTM_FAST_TEST(cuts_leave_work_for_many_threads) {
  struct Target {
    int64_t batch, threads;
    double efficiency;
  };
  for (const Target& target : {Target{64, 8, 0.9}, Target{64, 16, 0.8}, Target{64, 32, 0.6}, Target{256, 16, 0.9},
                               Target{256, 32, 0.8}, Target{256, 64, 0.6}}) {
    for (const int64_t lanes : {4, 8, 16}) {
      for (const int64_t directions : {1, 2}) {
        for (const bool recompute : {false, true}) {
          Work work = Layer(target.batch, 64, lanes, directions);
          work.recompute = work.recurrent_dropout = recompute;
          for (const bool forward : {true, false}) {
            const Estimate estimate = forward ? Forward(work, target.threads) : Backward(work, target.threads);
            const double efficiency = estimate.Efficiency(target.threads);
            Expect(efficiency >= target.efficiency && efficiency <= 1,
                   std::to_string(efficiency) + " of the time of " + std::to_string(target.threads) +
                       " threads is work, B = " + std::to_string(target.batch) +
                       (forward ? ", forward" : ", backward") + ", lanes: " + std::to_string(lanes) +
                       ", directions: " + std::to_string(directions));
          }
        }
      }
    }
  }
}

// The same where rows are of unequal length: there the longest row is a chain of steps that nobody can share.
LSTM_FAST_TEST(cuts_leave_work_where_rows_are_unequal) {
  struct Target {
    int64_t batch, units, threads;
    double forward, backward;
  };
  for (const Target& target :
       {Target{64, 64, 8, 0.9, 0.8}, Target{64, 64, 16, 0.6, 0.55}, Target{64, 256, 2, 0.8, 0.95},
        Target{64, 256, 16, 0.7, 0.8}, Target{256, 64, 16, 0.9, 0.8}, Target{256, 64, 32, 0.75, 0.65}}) {
    for (const int64_t lanes : {4, 8, 16}) {
      for (const int64_t directions : {1, 2}) {
        const Work work = Padded(Layer(target.batch, target.units, lanes, directions));
        const double forward = Forward(work, target.threads).Efficiency(target.threads);
        const double backward = Backward(work, target.threads).Efficiency(target.threads);
        Expect(forward >= target.forward && backward >= target.backward,
               std::to_string(forward) + " and " + std::to_string(backward) + " of the time of " +
                   std::to_string(target.threads) + " threads is work, B = " + std::to_string(target.batch) +
                   ", H = " + std::to_string(target.units) + ", lanes: " + std::to_string(lanes) +
                   ", directions: " + std::to_string(directions));
      }
    }
  }
}

// Rows that go through skips by themselves are in small tiles, which are for single threads.
LSTM_FAST_TEST(cuts_leave_work_where_timesteps_repeat) {
  struct Target {
    int64_t batch, directions, threads, working;
  };
  for (const Target& target :
       {Target{64, 1, 16, 16}, Target{64, 2, 16, 16}, Target{64, 2, 32, 32}, Target{32, 1, 8, 8}, Target{32, 2, 16, 16},
        Target{16, 1, 4, 4}, Target{8, 1, 2, 2}, Target{256, 1, 16, 16}}) {
    Work work = Layer(target.batch, 64, 16, target.directions);
    work.repeats = true;
    work.of_rows.assign(static_cast<size_t>(work.batch), work.time);
    const Cuts cuts = CutBackward(work, target.threads);
    Expect(cuts.threads == target.working && cuts.teams == cuts.threads,
           std::to_string(cuts.teams) + " teams and " + std::to_string(cuts.threads) + " threads of " +
               std::to_string(target.threads) + ", B = " + std::to_string(target.batch));
  }
}

// Choosing is done by one thread, while all others wait: it must not take as long as the work. The count is the most
// that may be set.
LSTM_FAST_TEST(cuts_are_chosen_fast_for_any_number_of_threads) {
  const Work work = Padded(Layer(4096, 128, 16));
  const std::clock_t begin = std::clock();  // of this process, whatever else the machine does
  CutForward(work, 4096);
  CutBackward(work, 4096);
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  Expect(seconds < 0.2, std::to_string(seconds) + " s for a choice");
}

LSTM_FAST_TEST(teams_have_threads_by_their_work) {
  Cuts cuts{};
  cuts.teams = 4;
  cuts.most = 8;
  const auto sizes = [&](int64_t threads) {
    std::string text;
    for (const int64_t size : TeamSizes(cuts, threads)) text += std::to_string(size) + " ";
    return text;
  };
  Expect(sizes(12) == "3 3 3 3 ", "alike: " + sizes(12));
  cuts.of_tasks = {600, 250, 100, 50};
  Expect(sizes(12) == "7 3 1 1 ", "by work: " + sizes(12));
  Expect(sizes(16) == "8 5 2 1 ", "no more than useful: " + sizes(16));
  Expect(sizes(40) == "8 8 8 8 ", "all that is useful: " + sizes(40));
  Expect(sizes(3) == "1 1 1 ", "fewer threads than teams: " + sizes(3));
  cuts.teams = 2;
  Expect(sizes(10) == "7 3 ", "two tasks for each team: " + sizes(10));
  cuts.of_tasks = {0, 0};
  Expect(sizes(4) == "3 1 " || sizes(4) == "2 2 " || sizes(4) == "1 3 ", "nothing to do: " + sizes(4));
}

// What is summed first must follow from the work alone.
LSTM_FAST_TEST(cuts_sum_alike_for_any_number_of_threads) {
  for (const int64_t batch : {1, 7, 16, 33, 64, 256, 500}) {
    for (const int64_t units : kUnits) {
      for (const int64_t directions : {1, 2}) {
        const Work work = Layer(batch, units, 16, directions);
        const Cuts alone = CutBackward(work, 1);
        for (int64_t threads = 2; threads <= 64; ++threads) {
          const Cuts cuts = CutBackward(work, threads);
          Expect(cuts.tile_rows == alone.tile_rows && cuts.chunk_steps == alone.chunk_steps &&
                     cuts.slots == alone.slots && cuts.in_place == alone.in_place &&
                     cuts.gradients_in_place == alone.gradients_in_place,
                 std::to_string(threads) + " threads sum differently, B = " + std::to_string(batch) +
                     ", H = " + std::to_string(units));
        }
      }
    }
  }
}

}  // namespace
}  // namespace lstm_fast::testing
