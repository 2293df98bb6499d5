#include "cpu/cuts.h"

#include <algorithm>

#include "cpu/kernel.h"

namespace lstm_fast {
namespace {

// Rows of a backward tile, and the most slots: both decide what is summed first, so neither follows the thread count.
constexpr int64_t kBackwardTileRows = 16;
constexpr int64_t kSlots = 8;

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t AtLeast1(int64_t value) { return std::max<int64_t>(1, value); }

// Fewer rows than this make a step wait for the recurrent kernel, from L2 or from beyond, rather than for arithmetic.
int64_t FewRows(const Work& work) { return work.RecurrentKernelBytes() > 512 * 1024 ? 16 : 4; }

// Threads per task, where there are fewer tasks than threads. Each needs a part of the units, and in every step some
// thousand operations to make up for waiting for the others.
int64_t TeamSize(const Work& work, int64_t threads, int64_t tasks, int64_t rows, int64_t flop) {
  if (!TeamsPay(work)) return 1;
  const int64_t step_flop = rows * 8 * work.units * work.units;
  return AtLeast1(std::min<int64_t>({threads / tasks, work.panels, step_flop / 32'000, flop / (tasks * 4'000'000)}));
}

// A row's result does not depend on its tile, so tiles may follow the number of threads. More than 32 rows, in very
// short sequences 128, do not read the weights less often to any effect. Rows of unequal length need smaller tiles to
// share them out evenly. Threads with a few rows each would wait for the weights: they share a tile's units.
int64_t ForwardTileRows(const Work& work, int64_t threads) {
  const int64_t pieces = (work.masked || work.repeats) && threads > 1 ? 4 * threads : threads;
  const int64_t share = CeilDivide(work.batch * work.directions, pieces);
  const int64_t most_rows = std::max<int64_t>(32, 128 / AtLeast1(work.time));
  const int64_t rows = std::max<int64_t>(TeamsPay(work) ? FewRows(work) : 1, std::min(share, most_rows));
  return AtLeast1(std::min(work.batch, rows));
}

// As few tiles as kBackwardTileRows allows; with twice the rows where each step reads a recurrent kernel from memory,
// and more in very short sequences, where a pass over the weights and their gradients would otherwise serve few
// timesteps. Two where the work is worth it and there is no better way to share it out; otherwise 1, 4 or a multiple of
// 8.
int64_t BackwardTileRows(const Work& work) {
  const int64_t batch = work.batch, short_rows = 128 / AtLeast1(work.time);
  const int64_t least_rows = work.RecurrentKernelBytes() > 8 * 1024 * 1024 ? 2 * kBackwardTileRows : kBackwardTileRows;
  int64_t tiles = CeilDivide(batch, std::max(least_rows, short_rows));
  if (tiles == 1 && 2 * work.Flop() >= 8'000'000 && (batch >= 2 * FewRows(work) || !TeamsPay(work))) tiles = 2;
  // Rows that skip timesteps leave tiles of unequal work: 8 of them are shared out better than 4.
  if (tiles > 2) tiles = tiles <= 4 && !work.repeats ? 4 : CeilDivide(tiles, kSlots) * kSlots;
  return AtLeast1(CeilDivide(batch, AtLeast1(tiles)));
}

// Large accumulators go through memory, which takes as long as computing some hundred timesteps: teams share them
// instead.
int64_t Slots(const Work& work, int64_t tiles) {
  const bool large = work.WeightsBytes() > 4 * 1024 * 1024 && TeamsPay(work);
  const int64_t most = large ? std::min<int64_t>(2, work.timesteps / 1024) : kSlots;
  return AtLeast1(std::min(most, tiles));
}

// As many timesteps as keep z of the tile at 192 KiB, within L2, but for large H at least 128 pairs of timestep and
// row, so that each pass over the weights pays.
int64_t ChunkSteps(const Work& work, int64_t tile_rows) {
  if (work.recompute) return kCheckpointInterval;
  const int64_t pair_bytes = work.panels * work.width * work.element_bytes;
  const int64_t pairs = std::max<int64_t>(128, 192 * 1024 / pair_bytes);
  return std::max<int64_t>(work.repeats ? kBlockSteps : 1, std::min(pairs / tile_rows, work.time));
}

// What a timestep costs besides products: gates, states, copies of them. Beside the products at H = 64, about as much
// as was measured.
constexpr double kElementwise = 200;  // operations a unit
// Waiting for each other, and being woken, for each thread of those that do: 0.1 and 2 us.
constexpr double kBarrier = 10'000, kWake = 200'000;

double Share(int64_t part, int64_t whole) { return whole > 0 ? double(part) / double(whole) : 0; }

// The largest share that one of `members` has of so many pieces.
double LargestShare(int64_t pieces, int64_t members) { return Share(CeilDivide(pieces, members), pieces); }

double Barrier(int64_t members) { return members > 1 ? kBarrier * double(members) : 0; }

double Wake(int64_t threads) { return threads > 1 ? kWake * double(threads) : 0; }

// Rows that are multiplied by the recurrent kernel in the time that it takes to read it.
int64_t LeastRows(const Work& work) {
  const int64_t bytes = work.RecurrentKernelBytes();
  return bytes <= 32 * 1024 ? 1 : bytes <= 64 * 1024 ? 2 : FewRows(work);
}

// A product with the recurrent kernel, and the gates, of `rows` rows in one timestep.
double StepFlop(const Work& work, int64_t rows) {
  const double units = double(work.units);
  return 8 * units * units * double(std::max(rows, LeastRows(work))) + kElementwise * units * double(rows);
}

// Timesteps of a row, on average.
double Timesteps(const Work& work) { return double(work.timesteps) / double(AtLeast1(work.batch)); }

double ForwardTask(const Work& work, const Cuts& cuts, int64_t members) {
  const double project = 8.0 * double(work.units) * double(work.kernel_rows) * double(cuts.tile_rows);
  const double step = (project + StepFlop(work, cuts.tile_rows)) * LargestShare(work.panels, members);
  return Timesteps(work) * (step + Barrier(members));
}

double BackwardTile(const Work& work, const Cuts& cuts, int64_t members) {
  const double rows = double(cuts.tile_rows), units = double(work.units);
  const double product = 8 * units * rows;  // with one column of W or U
  const double mine = LargestShare(work.panels, members);
  const double step = StepFlop(work, cuts.tile_rows) * mine + Barrier(members);
  const double weights = product * (units + double(work.kernel_rows)) * mine;
  const double dx = product * double(work.kernel_rows) * LargestShare(cuts.tile_rows * cuts.chunk_steps, members);
  return Timesteps(work) * (step + weights + dx + 8 * Barrier(members) / double(cuts.chunk_steps));
}

// One after the other, a slot's tiles in the directions of a task.
double BackwardTask(const Work& work, const Cuts& cuts, int64_t members) {
  const int64_t tiles = CeilDivide(CeilDivide(work.batch, cuts.tile_rows), cuts.slots);
  return double(tiles * (cuts.side_by_side ? 1 : work.directions)) * BackwardTile(work, cuts, members);
}

}  // namespace

bool TeamsPay(const Work& work) {
  return work.RecurrentKernelBytes() > 64 * 1024 && !work.recompute && !work.recurrent_dropout;
}

// Handing a task over costs about as much as computing 2 MFLOP.
int64_t Workers(int64_t threads, int64_t tasks, int64_t flop) {
  return AtLeast1(std::min<int64_t>({threads, tasks, flop / 4'000'000}));
}

Cuts CutForward(const Work& work, int64_t threads) {
  Cuts cuts{};
  cuts.tile_rows = ForwardTileRows(work, threads);
  // Where rows may skip timesteps, the chunks must not depend on the tiles. Periods of up to so many steps are found.
  cuts.chunk_steps = work.repeats && !work.recompute ? kBlockSteps : ChunkSteps(work, cuts.tile_rows);
  // Read in place, weights cost more per timestep, least where panels would not stay in a cache either; packing takes
  // longer than it saves in few timesteps.
  cuts.in_place = work.fits_in_place && work.timesteps <= (work.WeightsBytes() > 12 * 1024 * 1024 ? 12 : 2);
  const int64_t tasks = AtLeast1(CeilDivide(work.batch, cuts.tile_rows) * work.directions);
  cuts.workers = Workers(threads, tasks, work.Flop());
  cuts.members = TeamSize(work, threads, tasks, cuts.tile_rows, work.Flop());
  return cuts;
}

Cuts CutBackward(const Work& work, int64_t threads) {
  Cuts cuts{};
  cuts.tile_rows = BackwardTileRows(work);
  cuts.chunk_steps = ChunkSteps(work, cuts.tile_rows);
  cuts.in_place = work.fits_in_place && work.timesteps <= 16;  // packing the transpose takes longer than packing does
  cuts.slots = Slots(work, CeilDivide(work.batch, cuts.tile_rows));
  // With few slots the directions run side by side and their dx are added afterwards; with many, a slot runs one after
  // the other and the second adds to what the first wrote.
  cuts.side_by_side = work.directions == 2 && cuts.slots < kSlots / 2;
  cuts.gradients_in_place = work.fits_in_place && cuts.slots == 1 && work.batch > 0 && work.timesteps <= 128;
  const int64_t tasks = cuts.side_by_side ? 2 * cuts.slots : cuts.slots;
  cuts.workers = Workers(threads, tasks, 2 * work.Flop());
  cuts.members = TeamSize(work, threads, tasks, cuts.tile_rows, 2 * work.Flop());
  return cuts;
}

Estimate EstimateForward(const Work& work, const Cuts& cuts) {
  const int64_t tasks = AtLeast1(CeilDivide(work.batch, cuts.tile_rows) * work.directions);
  const int64_t working = std::min(cuts.workers, tasks) * cuts.members;
  Cuts alone = cuts;
  alone.tile_rows = AtLeast1(std::min<int64_t>(work.batch, 32));
  return {working, Share(work.batch, alone.tile_rows) * double(work.directions) * ForwardTask(work, alone, 1),
          double(CeilDivide(tasks, cuts.workers)) * ForwardTask(work, cuts, cuts.members) + Wake(working)};
}

Estimate EstimateBackward(const Work& work, const Cuts& cuts) {
  const int64_t tasks = cuts.slots * (cuts.side_by_side ? work.directions : 1);
  return {std::min(cuts.workers, tasks) * cuts.members, double(tasks) * BackwardTask(work, cuts, 1),
          double(CeilDivide(tasks, cuts.workers)) * BackwardTask(work, cuts, cuts.members) +
              Wake(cuts.workers * cuts.members)};
}

}  // namespace lstm_fast
