#include "cpu/cuts.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <queue>
#include <utility>
#include <vector>

#include "cpu/kernel.h"

namespace lstm_fast {
namespace {

// Rows of a backward tile, and the most slots: both decide what is summed first, so neither follows the thread count.
constexpr int64_t kBackwardTileRows = 16, kSmallTileRows = 4;
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

// Timesteps of each task. A task is every `slots`-th tile, and there are `copies` of it, one after the other in the
// list. Empty where all rows have the same number.
std::vector<int64_t> TaskTimesteps(const Work& work, int64_t tile_rows, int64_t slots, int64_t copies) {
  std::vector<int64_t> of_tasks;
  if (work.of_rows.empty()) return of_tasks;
  of_tasks.resize(static_cast<size_t>(slots * copies));
  for (int64_t row = 0; row < work.batch; ++row) {
    const int64_t slot = row / tile_rows % slots;
    for (int64_t copy = 0; copy < copies; ++copy) {
      of_tasks[static_cast<size_t>(slot * copies + copy)] += work.of_rows[static_cast<size_t>(row)];
    }
  }
  return of_tasks;
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

// Where rows go through skips by themselves, few of them in a tile lose nothing, and the tiles are of unequal work:
// many are shared out better.
bool TilesMayBeSmall(const Work& work) { return work.repeats && work.SkipsByRow(); }

int64_t MostSlots(const Work& work) { return TilesMayBeSmall(work) ? 2 * kSlots : kSlots; }

// As few tiles as kBackwardTileRows allows; with twice the rows where each step reads a recurrent kernel from memory,
// and more in very short sequences, where reading the weights and their gradients once would otherwise serve few
// timesteps. Two where the work is worth it and there is no better way to share it out; otherwise 1, 4 or a multiple of
// the slots, or small ones.
int64_t BackwardTileRows(const Work& work) {
  const int64_t batch = work.batch, short_rows = kMostRows / AtLeast1(work.time);
  const int64_t least_rows = work.RecurrentKernelBytes() > 8 * 1024 * 1024 ? 2 * kBackwardTileRows : kBackwardTileRows;
  int64_t tiles = CeilDivide(batch, std::max(least_rows, short_rows));
  if (tiles == 1 && 2 * work.Flop() >= 8'000'000 && (batch >= 2 * FewRows(work) || !MayShareUnits(work))) tiles = 2;
  const int64_t slots = MostSlots(work);
  if (TilesMayBeSmall(work) && tiles <= slots) {
    tiles = std::max(tiles, std::min(slots, batch / kSmallTileRows));
  } else if (tiles > 2) {
    tiles = tiles <= 4 && !work.repeats ? 4 : CeilDivide(tiles, slots) * slots;
  }
  return AtLeast1(CeilDivide(batch, AtLeast1(tiles)));
}

// Large accumulators go through memory, which takes as long as computing some hundred timesteps: teams share them
// instead.
int64_t Slots(const Work& work, int64_t tiles) {
  const bool large = work.WeightsBytes() > 4 * 1024 * 1024 && MayShareUnits(work);
  const int64_t most = large ? std::min<int64_t>(2, work.timesteps / 1024) : MostSlots(work);
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

// A tile, on average: how many timesteps it takes, and how many of its rows take part in one.
struct Average {
  double steps;
  int64_t rows;
};

Average AverageTile(const Work& work, int64_t tile_rows) {
  if (work.of_rows.empty()) return {double(work.timesteps) / double(AtLeast1(work.batch)), tile_rows};
  int64_t tiles = 0, steps = 0, all = 0;
  for (int64_t row = 0; row < work.batch; ++row) {
    const int64_t of_row = work.of_rows[static_cast<size_t>(row)];
    all += of_row;
    if (row % tile_rows != 0) continue;
    ++tiles;
    steps += of_row;  // its first row is the longest
  }
  return {double(steps) / double(AtLeast1(tiles)), AtLeast1((all + steps / 2) / AtLeast1(steps))};
}

double ForwardTaskFlop(const Work& work, const Average& tile, int64_t members) {
  const double project = 8.0 * double(work.units) * double(work.kernel_rows) * double(tile.rows);
  const double step = (project + StepFlop(work, tile.rows)) * LargestFraction(work.panels, members);
  return tile.steps * (step + BarrierFlop(members));
}

double BackwardTileFlop(const Work& work, const Cuts& cuts, const Average& tile, int64_t members) {
  const int64_t groups = RowGroups(work, cuts.tile_rows, members), sharing = members / groups;  // at least so many
  const double step = StepFlop(work, CeilDivide(tile.rows, groups)) * LargestFraction(work.panels, sharing);
  const double product = 8 * double(work.units * tile.rows);  // with one column of W or U
  const auto weights = [&](int64_t columns) {
    return product * double(columns) * LargestFraction(work.panels * CeilDivide(columns, work.micro_rows), members);
  };
  const double dx = product * double(work.kernel_rows) * LargestFraction(tile.rows * cuts.chunk_steps, members);
  return tile.steps * (step + BarrierFlop(CeilDivide(members, groups)) + weights(work.units) +
                       weights(work.kernel_rows) + dx + 4 * BarrierFlop(members) / double(cuts.chunk_steps));
}

// One after the other, a slot's tiles in the directions of a task.
double BackwardTaskFlop(const Work& work, const Cuts& cuts, const Average& tile, int64_t members) {
  const int64_t tiles = CeilDivide(CeilDivide(work.batch, cuts.tile_rows), cuts.slots);
  return double(tiles * (cuts.side_by_side ? 1 : work.directions)) * BackwardTileFlop(work, cuts, tile, members);
}

// What the team does that has the most to do. task_flop(members) is what a task of average length comes to.
template <class TaskFlop>
double LongestTeam(const Cuts& cuts, int64_t tasks, const TaskFlop& task_flop) {
  if (cuts.of_tasks.empty()) {
    return double(CeilDivide(tasks, cuts.teams)) * task_flop(AtLeast1(cuts.threads / cuts.teams));
  }
  const auto& of_tasks = cuts.of_tasks;
  const double average =
      double(AtLeast1(std::accumulate(of_tasks.begin(), of_tasks.end(), int64_t{0}))) / double(tasks);
  std::vector<int64_t> of_teams(static_cast<size_t>(cuts.teams));
  if (cuts.threads <= cuts.teams) {  // who has the least to do claims the next task
    std::priority_queue<int64_t, std::vector<int64_t>, std::greater<int64_t>> loads({}, std::move(of_teams));
    int64_t longest = 0;
    for (const int64_t timesteps : of_tasks) {
      const int64_t load = loads.top() + timesteps;
      loads.pop();
      loads.push(load);
      longest = std::max(longest, load);
    }
    return double(longest) / average * task_flop(1);
  }
  const std::vector<int64_t> sizes = TeamSizes(cuts, cuts.threads);
  for (size_t task = 0; task < of_tasks.size(); ++task) of_teams[task % of_teams.size()] += of_tasks[task];
  double longest = 0;
  for (size_t team = 0; team < sizes.size(); ++team) {
    longest = std::max(longest, double(of_teams[team]) / average * task_flop(sizes[team]));
  }
  return longest;
}

// Threads that would have no task, or only short ones, join others' tasks. There may be fewer teams than tasks, so that
// no thread is left. `threads`: as many as the work is worth. One thread chooses while the others wait, so that it
// looks at a few cuts only, and at none where there is nothing to gain.
template <class TaskFlop>
void ChooseTeams(int64_t threads, int64_t tasks, const TaskFlop& task_flop, Cuts& cuts) {
  constexpr double kGain = 0.97;  // what is estimated is no more exact
  Cuts best = cuts;
  double least = LongestTeam(cuts, tasks, task_flop);
  const double ideal = double(tasks) / double(threads) * task_flop(1);
  for (int64_t teams = std::min(threads, tasks); teams > 0 && kGain * least > ideal; teams -= AtLeast1(teams / 8)) {
    for (int64_t wanted = std::min(threads, teams * cuts.most); wanted > teams; wanted /= 2) {
      cuts.teams = teams;
      cuts.threads = cuts.of_tasks.empty() ? wanted - wanted % teams : wanted;
      const double cost = LongestTeam(cuts, tasks, task_flop);
      if (cost >= kGain * least) continue;
      least = cost;
      best = cuts;
    }
  }
  cuts = best;
}

// Threads that sleep take 50 to 150 us to wake up, sometimes more. An eighth of the time that all of them will take is
// waited for them, at 50 operations a nanosecond each.
int64_t Patience(int64_t flop, int64_t threads) { return std::clamp<int64_t>(flop / (8 * 50'000 * threads), 50, 1000); }

}  // namespace

std::vector<int64_t> TeamSizes(const Cuts& cuts, int64_t threads) {
  const int64_t teams = std::min(cuts.teams, threads);
  std::vector<int64_t> sizes(static_cast<size_t>(teams), 1), timesteps(sizes.size());
  for (size_t task = 0; task < cuts.of_tasks.size(); ++task) timesteps[task % sizes.size()] += cuts.of_tasks[task];
  if (cuts.of_tasks.empty()) std::fill(timesteps.begin(), timesteps.end(), 1);
  // The team with the most timesteps for each of its threads has the next one.
  const auto after = [&](size_t a, size_t b) {
    const int64_t of_a = timesteps[a] * sizes[b], of_b = timesteps[b] * sizes[a];
    return of_a < of_b || (of_a == of_b && a > b);
  };
  std::priority_queue<size_t, std::vector<size_t>, decltype(after)> next(after);
  for (size_t team = 0; team < sizes.size() && cuts.most > 1; ++team) next.push(team);
  for (int64_t left = threads - teams; left > 0 && !next.empty(); --left) {
    const size_t team = next.top();
    next.pop();
    if (++sizes[team] < cuts.most) next.push(team);
  }
  return sizes;
}

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
  const int64_t tiles = AtLeast1(CeilDivide(work.batch, cuts.tile_rows)), tasks = tiles * work.directions;
  cuts.of_tasks = TaskTimesteps(work, cuts.tile_rows, tiles, work.directions);
  cuts.teams = cuts.threads = Workers(threads, tasks, work.Flop());
  cuts.most = MostSharingUnits(work, cuts.tile_rows);
  const int64_t worth = std::min(threads, work.Flop() / 4'000'000);
  if (cuts.of_tasks.empty()) {
    const int64_t wanted = std::min(worth, tasks * cuts.most);
    if (wanted > tasks) cuts.threads = wanted - wanted % tasks;
  } else {
    const Average tile = AverageTile(work, cuts.tile_rows);
    ChooseTeams(worth, tasks, [&](int64_t members) { return ForwardTaskFlop(work, tile, members); }, cuts);
  }
  cuts.patience = Patience(work.Flop(), cuts.threads);
  return cuts;
}

Cuts CutBackward(const Work& work, int64_t threads) {
  Cuts cuts{};
  cuts.tile_rows = BackwardTileRows(work);
  cuts.chunk_steps = ChunkSteps(work, cuts.tile_rows);
  cuts.in_place = work.fits_in_place && work.timesteps <= 16;  // packing the transpose takes longer than packing does
  cuts.slots = Slots(work, CeilDivide(work.batch, cuts.tile_rows));
  // With few slots, or with more threads than slots, the directions run side by side and their dx are added afterwards;
  // otherwise a slot runs one after the other and the second adds to what the first wrote. That comes to the same bits.
  cuts.side_by_side = work.directions == 2 && (cuts.slots < kSlots / 2 || threads > std::max<int64_t>(2, cuts.slots));
  cuts.gradients_in_place = work.fits_in_place && cuts.slots == 1 && work.batch > 0 && work.timesteps <= 128;
  const int64_t tasks = cuts.side_by_side ? 2 * cuts.slots : cuts.slots;
  cuts.of_tasks = TaskTimesteps(work, cuts.tile_rows, cuts.slots, cuts.side_by_side ? 2 : 1);
  cuts.teams = cuts.threads = Workers(threads, tasks, 2 * work.Flop());
  // Threads without a row of their own lose more by waiting than the products' shares gain, measured with one row.
  cuts.most = std::max(cuts.tile_rows * MostSharingUnits(work, 1), MostSharingUnits(work, cuts.tile_rows));
  // Two threads form no team where all tasks are equally long, or where they could not share units. With up to 64 units
  // they would gain nothing, as measured.
  const bool claims = threads == 2 && tasks > 1 && (cuts.of_tasks.empty() || !MayShareUnits(work));
  if (!claims && !(work.repeats && work.SkipsByRow())) {
    const Average tile = AverageTile(work, cuts.tile_rows);
    const auto task_flop = [&](int64_t members) { return BackwardTaskFlop(work, cuts, tile, members); };
    ChooseTeams(std::min(threads, 2 * work.Flop() / 4'000'000), tasks, task_flop, cuts);
  }
  cuts.patience = Patience(2 * work.Flop(), cuts.threads);
  return cuts;
}

Estimate EstimateForward(const Work& work, const Cuts& cuts) {
  const int64_t tasks = AtLeast1(CeilDivide(work.batch, cuts.tile_rows) * work.directions);
  const int64_t alone = AtLeast1(std::min<int64_t>(work.batch, 32));  // rows of a tile, if there were one thread
  const Average tile = AverageTile(work, cuts.tile_rows);
  const auto task_flop = [&](int64_t members) { return ForwardTaskFlop(work, tile, members); };
  return {cuts.threads,
          Fraction(work.batch, alone) * double(work.directions) * ForwardTaskFlop(work, AverageTile(work, alone), 1),
          LongestTeam(cuts, tasks, task_flop) + WakeFlop(cuts.threads)};
}

Estimate EstimateBackward(const Work& work, const Cuts& cuts) {
  const int64_t tasks = cuts.slots * (cuts.side_by_side ? work.directions : 1);
  const Average tile = AverageTile(work, cuts.tile_rows);
  const auto task_flop = [&](int64_t members) { return BackwardTaskFlop(work, cuts, tile, members); };
  return {cuts.threads, double(tasks) * task_flop(1), LongestTeam(cuts, tasks, task_flop) + WakeFlop(cuts.threads)};
}

}  // namespace lstm_fast
