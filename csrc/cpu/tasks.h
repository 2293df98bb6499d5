// A list of tasks, taken one after the other by threads or by teams of threads.
#ifndef LSTM_FAST_CPU_TASKS_H_
#define LSTM_FAST_CPU_TASKS_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

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

// Runs task(index, worker, team) for every index below count; with teams of several threads, worker counts the teams.
// groups_of(size) says into how many groups a team of so many splits.
template <class GroupsOf, class Task>
void ForEachByTeams(Parallel& parallel, int64_t workers, int64_t members, int64_t count, const GroupsOf& groups_of,
                    const Task& task) {
  if (members == 1) {
    ForEach(parallel, workers, count, [&](int64_t index, int64_t worker) { task(index, worker, kAlone); });
    return;
  }
  // Of each team, one for all and one for each group.
  std::vector<Barrier> barriers(static_cast<size_t>(workers * (1 + members)));
  const auto wait = [](void* of_team, int64_t number, int64_t size) {
    static_cast<Barrier*>(of_team)[number].Wait(size);
  };
  parallel.Together(static_cast<int>(workers * members), [&](int64_t rank, int64_t size) {
    const int64_t team_size = std::max<int64_t>(1, size / workers), teams = std::min(workers, size / team_size);
    const int64_t worker = rank / team_size;
    if (worker >= teams) return;
    const Team team = {rank % team_size, team_size, wait, &barriers[static_cast<size_t>(worker * (1 + members))],
                       groups_of(team_size)};
    for (int64_t i = worker; i < count; i += teams) {
      task(i, worker, team);
      team.Wait();  // before the scratch memory is used again
    }
  });
}

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_TASKS_H_
