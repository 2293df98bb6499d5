// A list of tasks, taken one after the other by threads or by teams of threads.
#ifndef LSTM_FAST_CPU_TASKS_H_
#define LSTM_FAST_CPU_TASKS_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/crowd.h"
#include "cpu/cuts.h"
#include "cpu/kernel.h"
#include "cpu/spin.h"
#include "lstm_fast/parallel.h"

namespace lstm_fast {

// Runs task(index, worker) for every index below count; a worker runs one task at a time.
template <class Task>
void ForEach(Parallel& parallel, int64_t workers, int64_t count, const Task& task) {
  std::atomic<int64_t> next{0};
  parallel.For(workers, [&](int64_t worker) {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(i, worker);
  });
}

// Fewer threads in teams where other programs need the processors. Where too few are left, each runs tasks of its own:
// threads that do not wait for each other lose the least.
inline Cuts LimitTeams(Cuts cuts, int64_t tasks) {
  if (cuts.threads <= cuts.teams) return cuts;
  const int64_t most = Crowd::OfProcess().Limit(static_cast<int>(cuts.threads), Crowd::Clock::now());
  if (most > cuts.teams) {
    cuts.threads = most;
  } else {
    cuts.teams = cuts.threads = std::min(cuts.threads, tasks);
  }
  return cuts;
}

// How many pieces of scratch memory ForEachByTeams() uses at once, at most.
inline int64_t TasksAtOnce(const Cuts& cuts, int64_t tasks) {
  return cuts.threads <= cuts.teams ? cuts.teams : std::max(cuts.teams, std::min(cuts.threads, tasks));
}

// For how long this thread has slept at barriers.
inline thread_local Crowd::Clock::duration slept_at_barriers{};

// Runs task(index, place, team) for every index below count; `place`, below TasksAtOnce(), is the team's own while it
// runs a task. groups_of(size) says into how many groups a team of so many splits.
template <class GroupsOf, class Task>
void ForEachByTeams(Parallel& parallel, const Cuts& cuts, int64_t count, const GroupsOf& groups_of, const Task& task) {
  const auto alone = [&](int64_t index, int64_t worker) { task(index, worker, kAlone); };
  if (cuts.threads <= cuts.teams) {
    ForEach(parallel, cuts.teams, count, alone);
    return;
  }
  const int wanted = static_cast<int>(cuts.threads);
  const auto begin = Crowd::Clock::now();
  // Of each team, one for all and one for each group.
  std::vector<Barrier> barriers(static_cast<size_t>(cuts.teams + wanted));
  const auto wait = [](void* of_team, int64_t number, int64_t size) {
    slept_at_barriers += static_cast<Barrier*>(of_team)[number].Wait(size);
  };
  std::vector<int64_t> first_ranks = {0};
  for (const int64_t size : TeamSizes(cuts, wanted)) first_ranks.push_back(first_ranks.back() + size);
  int together = 1;
  std::atomic<Crowd::Clock::rep> stopped{0};  // for how long members were, added up
  parallel.Together(wanted, std::chrono::microseconds(cuts.patience), [&](int64_t rank, int64_t size) {
    if (rank == 0) together = static_cast<int>(size);
    if (size <= cuts.teams) return;
    const auto came = Crowd::Clock::now();
    const ThreadUse before = ThreadUse::Now();
    slept_at_barriers = {};
    // Where fewer threads came than were wanted, each team has about as many: no memory is needed to find that out.
    const bool all = size == wanted;
    const int64_t teams = cuts.teams;
    const auto first_rank = [&](int64_t number) {
      return all ? first_ranks[static_cast<size_t>(number)] : size * number / teams;
    };
    int64_t number = 0;
    while (number < teams && rank >= first_rank(number + 1)) ++number;
    if (number == teams) return;
    const int64_t first = first_rank(number), team_size = first_rank(number + 1) - first;
    const Team team = {rank - first, team_size, wait, &barriers[static_cast<size_t>(number + first)],
                       groups_of(team_size)};
    for (int64_t i = number; i < count; i += teams) {
      task(i, number, team);
      team.Wait();  // before the scratch memory is used again
    }
    const ThreadUse after = ThreadUse::Now();
    if (after.stops == before.stops) return;
    const auto awake = Crowd::Clock::now() - came - slept_at_barriers;
    stopped.fetch_add((awake - (after.running - before.running)).count(), std::memory_order_relaxed);
  });
  if (together <= cuts.teams) {  // a team cannot be joined once it runs, but these can
    ForEach(parallel, TasksAtOnce(cuts, count), count, alone);
    return;
  }
  const auto end = Crowd::Clock::now();
  Crowd::OfProcess().Report(together, end - begin, Crowd::Clock::duration(stopped.load(std::memory_order_relaxed)),
                            end);
}

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_TASKS_H_
