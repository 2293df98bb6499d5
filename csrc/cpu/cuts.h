// How a pass is cut: into tiles of rows, chunks of timesteps and slots of gradients, and for how many threads. It
// follows from what there is to compute, by arithmetic alone.
#ifndef LSTM_FAST_CPU_CUTS_H_
#define LSTM_FAST_CPU_CUTS_H_

#include <cstdint>
#include <vector>

namespace lstm_fast {

// What there is to compute.
struct Work {
  int64_t batch, time, directions, units;
  int64_t kernel_rows;    // of W
  int64_t panels, width;  // of the gates: see kernel.h
  int64_t micro_rows;     // of a register tile
  int64_t element_bytes;  // of the arithmetic
  int64_t timesteps;      // real ones, over all rows
  // Those that each row is expected to compute, in the order of the tiles; empty: all alike.
  std::vector<int64_t> of_rows;
  bool masked;             // rows may have unequal numbers of them
  bool repeats;            // rows may skip some
  bool recompute;          // Reserve::kRecompute
  bool recurrent_dropout;  // in any direction
  bool fits_in_place;      // matrices [K, 4H] may be read and written as they are

  // Multiplications and additions of the forward pass, half of those of the backward pass.
  int64_t Flop() const { return directions * timesteps * 8 * units * (kernel_rows + units); }
  int64_t RecurrentKernelBytes() const { return units * panels * width * element_bytes; }
  // The backward pass takes rows through skipped timesteps one by one: the matrices for it, a half of U, stay in L1.
  bool SkipsByRow() const { return RecurrentKernelBytes() <= 64 * 1024; }
  // Of W, U and the bias of one direction.
  int64_t WeightsBytes() const { return (kernel_rows + units + 1) * panels * width * element_bytes; }
};

struct Cuts {
  int64_t tile_rows;    // rows of a tile; the last one may have fewer
  int64_t chunk_steps;  // timesteps projected, or gone back through, at once
  int64_t teams;        // that run the tasks
  int64_t threads;      // of all teams together; as many as teams: each is one thread, which claims its tasks
  int64_t most;         // threads that a team may have
  int64_t patience;     // microseconds to wait for them: they may sleep
  bool in_place;        // the weights are read as they were given
  // Timesteps of each task, all rows together; empty: all alike.
  std::vector<int64_t> of_tasks;

  // Backward only.
  int64_t slots;            // accumulators of the weights' gradients, each for a fixed list of tiles
  bool side_by_side;        // a task is a slot in one direction; else in all, one after the other
  bool gradients_in_place;  // may be written where they are wanted, if all are
};

// What a cut comes to, by arithmetic: operations, and what waiting costs in their stead. On a machine with few
// processors it tells what more of them would gain, and it has not been measured on one with many.
struct Estimate {
  int64_t working;  // threads that have something to do, at least for a time
  double all;       // the work, if one thread did it
  double longest;   // what the thread with the most work does and waits for

  // Of so many threads, which share of their time is work: 1 if all do an equal part and never wait.
  double Efficiency(int64_t threads) const { return all / (longest * static_cast<double>(threads)); }
};

Estimate EstimateForward(const Work& work, const Cuts& cuts);
Estimate EstimateBackward(const Work& work, const Cuts& cuts);

Cuts CutForward(const Work& work, int64_t threads);
Cuts CutBackward(const Work& work, int64_t threads);

// How many of so many threads each team has. There are fewer teams where there are fewer threads. Team n runs the tasks
// n, n + teams, n + 2 teams, ...; the more timesteps these have, the more threads it has.
std::vector<int64_t> TeamSizes(const Cuts& cuts, int64_t threads);

// Into how many groups, each with rows of its own, a team of so many threads splits in the backward pass, for a tile of
// so many rows. The members of a group share its rows' units.
int64_t RowGroups(const Work& work, int64_t tile_rows, int64_t members);

// Threads worth waking for so much arithmetic.
int64_t Workers(int64_t threads, int64_t tasks, int64_t flop);

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_CUTS_H_
