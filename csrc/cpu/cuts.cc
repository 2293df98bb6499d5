#include "cpu/cuts.h"

#include <algorithm>

#include "cpu/kernel.h"

namespace lstm_fast {
namespace {

// Rows of a backward tile, and the most slots: both decide what is summed first, so neither follows the thread count.
constexpr int64_t kBackwardTileRows = 16;
constexpr int64_t kSlots = 8;
// Of any tile.
constexpr int64_t kMostRows = 128;

int64_t AtLeast1(int64_t value) { return std::max<int64_t>(1, value); }

// Whether threads may share the units of rows, and wait for each other in every timestep: the recurrent kernel does not
// fit into one thread's L1.
bool MayShareUnits(const Work& work) {
  return work.RecurrentKernelBytes() > 64 * 1024 && !work.recompute && !work.recurrent_dropout;
}

// Fewer rows than this make a step wait for the recurrent kernel, from L2 or from beyond, rather than for arithmetic.
int64_t FewRows(const Work& work) { return work.RecurrentKernelBytes() > 512 * 1024 ? 16 : 4; }

// Rows of one thread's own that take no longer than reading the recurrent kernel for them: fewer of them share units.
// No number is enough where that comes from memory.
int64_t EnoughRows(const Work& work) {
  const int64_t bytes = work.RecurrentKernelBytes();
  if (bytes > 8 * 1024 * 1024) return kMostRows;
  return bytes <= 32 * 1024 ? 1 : bytes <= 64 * 1024 ? 2 : FewRows(work);
}

// How many threads may share the units of so many rows. Each needs a part of the units, and in every step some thousand
// operations to make up for waiting for the others.
int64_t MostSharingUnits(const Work& work, int64_t rows) {
  if (!MayShareUnits(work)) return 1;
  return AtLeast1(std::min(work.panels, rows * 8 * work.units * work.units / 32'000));
}

// Threads per task, where there are fewer tasks than threads.
int64_t TeamSize(const Work& work, int64_t threads, int64_t tasks, int64_t rows, int64_t flop) {
  return AtLeast1(std::min({threads / tasks, MostSharingUnits(work, rows), flop / (tasks * 4'000'000)}));
}

// A row's result does not depend on its tile, so tiles may follow the number of threads. More than 32 rows, in very
// short sequences 128, do not read the weights less often to any effect. Rows of unequal length need smaller tiles to
// share them out evenly. Threads with a few rows each would wait for the weights: they share a tile's units.
int64_t ForwardTileRows(const Work& work, int64_t threads) {
  const int64_t pieces = (work.masked || work.repeats) && threads > 1 ? 4 * threads : threads;
  const int64_t most_rows = std::max<int64_t>(32, kMostRows / AtLeast1(work.time));
  const int64_t all_rows = work.batch * work.directions;
  // In as few rounds as that allows, all of them full.
  const int64_t share = CeilDivide(all_rows, pieces * AtLeast1(CeilDivide(all_rows, pieces * most_rows)));
  const int64_t rows = std::max<int64_t>(MayShareUnits(work) ? FewRows(work) : 1, std::min(share, most_rows));
  return AtLeast1(std::min(work.batch, rows));
}

// As few tiles as kBackwardTileRows allows; with twice the rows where each step reads a recurrent kernel from memory,
// and more in very short sequences, where reading the weights and their gradients once would otherwise serve few
// timesteps. Two where the work is worth it and there is no better way to share it out; otherwise 1, 4 or a multiple of
// 8.
int64_t BackwardTileRows(const Work& work) {
  const int64_t batch = work.batch, short_rows = kMostRows / AtLeast1(work.time);
  const int64_t least_rows = work.RecurrentKernelBytes() > 8 * 1024 * 1024 ? 2 * kBackwardTileRows : kBackwardTileRows;
  int64_t tiles = CeilDivide(batch, std::max(least_rows, short_rows));
  if (tiles == 1 && 2 * work.Flop() >= 8'000'000 && (batch >= 2 * FewRows(work) || !MayShareUnits(work))) tiles = 2;
  // Rows that skip timesteps leave tiles of unequal work: 8 of them are shared out better than 4.
  if (tiles > 2) tiles = tiles <= 4 && !work.repeats ? 4 : CeilDivide(tiles, kSlots) * kSlots;
  return AtLeast1(CeilDivide(batch, AtLeast1(tiles)));
}

// Large accumulators go through memory, which takes as long as computing some hundred timesteps: teams share them
// instead.
int64_t Slots(const Work& work, int64_t tiles) {
  const bool large = work.WeightsBytes() > 4 * 1024 * 1024 && MayShareUnits(work);
  const int64_t most = large ? std::min<int64_t>(2, work.timesteps / 1024) : kSlots;
  return AtLeast1(std::min(most, tiles));
}

// As many timesteps as keep z of the tile at 192 KiB, within L2, but for large H at least 128 pairs of timestep and
// row, so that it pays to read the weights.
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

double Fraction(int64_t part, int64_t whole) { return whole > 0 ? double(part) / double(whole) : 0; }

// The largest fraction that one of `members` has of so many pieces.
double LargestFraction(int64_t pieces, int64_t members) { return Fraction(CeilDivide(pieces, members), pieces); }

double BarrierFlop(int64_t members) { return members > 1 ? kBarrier * double(members) : 0; }

double WakeFlop(int64_t threads) { return threads > 1 ? kWake * double(threads) : 0; }

// A product with the recurrent kernel, and the gates, of `rows` rows in one timestep.
double StepFlop(const Work& work, int64_t rows) {
  const double units = double(work.units);
  return 8 * units * units * double(std::max(rows, std::min<int64_t>(16, EnoughRows(work)))) +
         kElementwise * units * double(rows);
}

// Timesteps of a row, on average.
double Timesteps(const Work& work) { return double(work.timesteps) / double(AtLeast1(work.batch)); }

double ForwardTaskFlop(const Work& work, const Cuts& cuts, int64_t members) {
  const double project = 8.0 * double(work.units) * double(work.kernel_rows) * double(cuts.tile_rows);
  const double step = (project + StepFlop(work, cuts.tile_rows)) * LargestFraction(work.panels, members);
  return Timesteps(work) * (step + BarrierFlop(members));
}

double BackwardTileFlop(const Work& work, const Cuts& cuts, int64_t members) {
  const int64_t groups = RowGroups(work, cuts.tile_rows, members), sharing = members / groups;  // at least so many
  const double step = StepFlop(work, CeilDivide(cuts.tile_rows, groups)) * LargestFraction(work.panels, sharing);
  const double product = 8 * double(work.units * cuts.tile_rows);  // with one column of W or U
  const auto weights = [&](int64_t columns) {
    return product * double(columns) * LargestFraction(work.panels * CeilDivide(columns, work.micro_rows), members);
  };
  const double dx = product * double(work.kernel_rows) * LargestFraction(cuts.tile_rows * cuts.chunk_steps, members);
  return Timesteps(work) * (step + BarrierFlop(CeilDivide(members, groups)) + weights(work.units) +
                            weights(work.kernel_rows) + dx + 4 * BarrierFlop(members) / double(cuts.chunk_steps));
}

// One after the other, a slot's tiles in the directions of a task.
double BackwardTaskFlop(const Work& work, const Cuts& cuts, int64_t members) {
  const int64_t tiles = CeilDivide(CeilDivide(work.batch, cuts.tile_rows), cuts.slots);
  return double(tiles * (cuts.side_by_side ? 1 : work.directions)) * BackwardTileFlop(work, cuts, members);
}

// Threads that would have no task join others' tasks. There may be fewer teams than tasks, so that no thread is left.
void ChooseTeams(const Work& work, int64_t threads, int64_t tasks, Cuts& cuts) {
  const int64_t worth = 2 * work.Flop() / 4'000'000;
  if (threads == 1 || worth < 2 || (work.repeats && work.SkipsByRow())) return;
  if (threads == 2 && tasks > 1) return;
  // Threads without a row of their own lose more by waiting than the products' shares gain, measured with one row.
  const int64_t most = std::max(cuts.tile_rows * MostSharingUnits(work, 1), MostSharingUnits(work, cuts.tile_rows));
  double least = double(CeilDivide(tasks, cuts.workers)) * BackwardTaskFlop(work, cuts, 1);
  for (int64_t teams = std::min(threads, tasks); teams > 0; --teams) {
    for (int64_t members = std::min(std::min(threads, worth) / teams, most); members > 1; members /= 2) {
      const double cost = double(CeilDivide(tasks, teams)) * BackwardTaskFlop(work, cuts, members);
      if (cost >= 0.97 * least) continue;  // what is estimated is no more exact
      least = cost;
      cuts.workers = teams;
      cuts.members = members;
    }
  }
}

}  // namespace

// As many groups as have enough rows, unless more threads than can share units would be left in each. Without sharing,
// each thread is a group.
int64_t RowGroups(const Work& work, int64_t tile_rows, int64_t members) {
  if (!MayShareUnits(work)) return members;
  int64_t groups = std::min(members, AtLeast1(tile_rows / EnoughRows(work)));
  while (groups < members && groups * MostSharingUnits(work, CeilDivide(tile_rows, groups)) < members) ++groups;
  return groups;
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
  // With few slots, or with more threads than slots, the directions run side by side and their dx are added afterwards;
  // otherwise a slot runs one after the other and the second adds to what the first wrote. That comes to the same bits,
  // but where timesteps repeat: there, nothing may be added, which is not the same as adding 0 to -0.
  cuts.side_by_side = work.directions == 2 &&
                      (cuts.slots < kSlots / 2 || (threads > std::max<int64_t>(2, cuts.slots) && !work.repeats));
  cuts.gradients_in_place = work.fits_in_place && cuts.slots == 1 && work.batch > 0 && work.timesteps <= 128;
  const int64_t tasks = cuts.side_by_side ? 2 * cuts.slots : cuts.slots;
  cuts.workers = Workers(threads, tasks, 2 * work.Flop());
  cuts.members = 1;
  ChooseTeams(work, threads, tasks, cuts);
  return cuts;
}

Estimate EstimateForward(const Work& work, const Cuts& cuts) {
  const int64_t tasks = AtLeast1(CeilDivide(work.batch, cuts.tile_rows) * work.directions);
  const int64_t working = std::min(cuts.workers, tasks) * cuts.members;
  Cuts alone = cuts;
  alone.tile_rows = AtLeast1(std::min<int64_t>(work.batch, 32));
  return {working, Fraction(work.batch, alone.tile_rows) * double(work.directions) * ForwardTaskFlop(work, alone, 1),
          double(CeilDivide(tasks, cuts.workers)) * ForwardTaskFlop(work, cuts, cuts.members) + WakeFlop(working)};
}

Estimate EstimateBackward(const Work& work, const Cuts& cuts) {
  const int64_t tasks = cuts.slots * (cuts.side_by_side ? work.directions : 1);
  return {std::min(cuts.workers, tasks) * cuts.members, double(tasks) * BackwardTaskFlop(work, cuts, 1),
          double(CeilDivide(tasks, cuts.workers)) * BackwardTaskFlop(work, cuts, cuts.members) +
              WakeFlop(cuts.workers * cuts.members)};
}

}  // namespace lstm_fast
