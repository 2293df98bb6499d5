// Whether other programs need the processors, too. The members of a team wait for each other again and again: where the
// system stops one of them, all of them stop, and fewer threads, or one, are faster.
#ifndef LSTM_FAST_CPU_CROWD_H_
#define LSTM_FAST_CPU_CROWD_H_

#include <chrono>
#include <climits>
#include <cstdint>
#include <mutex>

namespace lstm_fast {

// What the system says about the calling thread, since it began; nothing where it does not say.
struct ThreadUse {
  std::chrono::steady_clock::duration running;  // on a processor
  int64_t stops;                                // for another thread

  static ThreadUse Now();
};

// Thread-safe.
class Crowd {
 public:
  using Clock = std::chrono::steady_clock;

  // That of all teams of this process, whoever's threads they are.
  static Crowd& OfProcess();

  // How many of the threads that are wanted a team may have. After a while more are tried again.
  int Limit(int wanted, Clock::time_point now);

  // A team of `size` threads was at work until `now`; its members were kept from running for so long, added up.
  void Report(int size, Clock::duration time, Clock::duration stopped, Clock::time_point now);

  std::mutex& mutex() { return mutex_; }

 private:
  std::mutex mutex_;
  int most_ = INT_MAX;         // threads of a team
  Clock::time_point until_{};  // when more are tried
  bool trying_ = false;        // whether more are, and nobody knows yet how that goes
  Clock::duration pause_{};    // the last one
  Clock::duration time_{};     // of teams, since it was last decided
  Clock::duration stopped_{};  // likewise
};

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_CROWD_H_
