// The package's own threads.
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "cpu/environment.h"
#include "cpu/fork.h"
#include "cpu/processors.h"
#include "cpu/quota.h"
#include "cpu/spin.h"
#include "lstm_fast/parallel.h"

namespace lstm_fast {
namespace {

struct Count {
  int threads;
  const char* source;  // what decided
  bool asked;          // it was said to this package, and nobody else decides
};

// What decides how many threads there are.
struct Counts {
  Count own;
  Count of_framework;  // no threads: it has not said

  const Count& Decided() const {
    const bool fewer = of_framework.threads > 0 && of_framework.threads < own.threads;
    return fewer && !own.asked ? of_framework : own;
  }
};

constexpr int kMostThreads = 4096;

// OpenMP's number, of a list the outermost level; 0 if there is none. Others' variables are taken where they make
// sense, and not checked.
int OpenMpThreads() {
  const std::string text = Variable("OMP_NUM_THREADS").value_or("");
  char* rest = nullptr;
  const long threads = std::strtol(text.c_str(), &rest, 10);
  return threads >= 1 && threads <= kMostThreads && (*rest == '\0' || *rest == ',') ? static_cast<int>(threads) : 0;
}

Count InitialCount() {
  if (const auto own = IntegerVariable("LSTM_FAST_NUM_THREADS", 1, kMostThreads)) {
    return {static_cast<int>(*own), "LSTM_FAST_NUM_THREADS", true};
  }
  if (const int threads = OpenMpThreads()) return {threads, "OMP_NUM_THREADS", false};
  const int processors = ProcessorCount();
  // Rounded down: a thread more than the quota feeds would stop all of them again and again.
  const double quota = ProcessorQuota();
  if (quota > 0 && quota < processors) return {std::max(1, static_cast<int>(quota)), "CPU quota", false};
  return {processors, "processors", false};
}

// A call of Run() or RunTogether(): helpers join it, by which it stays alive until they have left.
struct Job {
  Job(int most_helpers, void (*work_of_job)(Job&, int rank)) : open(most_helpers), work(work_of_job) {
    std::fegetenv(&environment);
  }

  Job* next = nullptr;                 // in the pool's list; guarded by the pool's mutex
  int open;                            // helpers that may still join; guarded likewise
  int joined = 0;                      // guarded likewise
  std::atomic<int> inside{0};          // helpers at work
  int processor = CurrentProcessor();  // the caller's
  void (*work)(Job&, int rank);
  // The caller's: the bits of a call must not depend on which thread started a helper, whose rounding it has.
  std::fenv_t environment;
};

// Tasks are claimed one by one by the caller and by the helpers.
struct ClaimJob : Job {
  ClaimJob(int most_helpers, int64_t task_count, void (*function)(void*, int64_t), void* argument)
      : Job(most_helpers, &Work), count(task_count), task(function), context(argument) {}

  static void Work(Job& job, int) {
    auto& self = static_cast<ClaimJob&>(job);
    for (int64_t i = self.next.fetch_add(1); i < self.count; i = self.next.fetch_add(1)) self.task(self.context, i);
  }

  int64_t count;
  void (*task)(void*, int64_t);
  void* context;
  std::atomic<int64_t> next{0};
};

// All start at once, when the caller has closed the job and so knows how many they are.
struct TeamJob : Job {
  TeamJob(int most_helpers, void (*function)(void*, int, int), void* argument)
      : Job(most_helpers, &Work), task(function), context(argument) {}

  static void Work(Job& job, int rank) {
    auto& self = static_cast<TeamJob&>(job);
    self.task(self.context, rank, WaitForSize(self.size));
  }

  void (*task)(void*, int, int);
  void* context;
  std::atomic<int> size{0};
};

class ThreadPool final : public Parallel {
 public:
  explicit ThreadPool(const Counts& counts) : counts_(counts), limit_(counts.Decided().threads) {}

  int threads() const override { return limit_.load(); }

  const char* source() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return counts_.Decided().source;
  }

  void Resize(const Count& own) {
    const std::lock_guard<std::mutex> lock(mutex_);
    counts_.own = own;
    Decide();
  }

  void Follow(const Count& framework) {
    const std::lock_guard<std::mutex> lock(mutex_);
    counts_.of_framework = framework;
    Decide();
  }

  void Run(int64_t count, void (*task)(void*, int64_t), void* context) override {
    if (count <= 1 || threads() == 1) {
      for (int64_t i = 0; i < count; ++i) task(context, i);
      return;
    }
    ClaimJob job(static_cast<int>(std::min<int64_t>(count, threads())) - 1, count, task, context);
    Post(&job);
    job.Work(job, 0);
    Finish(&job);
  }

  void RunTogether(int wanted, std::chrono::microseconds patience, void (*task)(void*, int, int),
                   void* context) override {
    // Members on one processor would wait for each other there, each for the time that the system lets another one run.
    const int helpers = std::min({wanted, threads(), ProcessorCount()}) - 1;
    if (helpers < 1) {
      task(context, 0, 1);
      return;
    }
    TeamJob job(helpers, task, context);
    const int free = Post(&job);
    SpinUntil([&] { return job.inside.load(std::memory_order_acquire) >= free; }, patience);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      Forget(&job);
      job.size.store(1 + job.joined, std::memory_order_release);
    }
    job.Work(job, 0);
    Finish(&job);
  }

  std::mutex& mutex() { return mutex_; }

  // In the child of fork(), which has none of the helpers: a pool as if it were new, at the same place. Nothing is
  // allocated, and what the helpers waited on is left as it is, since to destroy it would wait for them.
  void StartOver() {
    const Counts counts = counts_;
    new (this) ThreadPool(counts);
  }

 private:
  void Decide() {
    limit_.store(counts_.Decided().threads);
    work_.notify_all();
  }

  // Offers a job to the helpers; returns how many are free to join it. The calling thread counts as busy until
  // Finish(). Nothing is allocated but threads, which it can do without: it never throws.
  int Post(Job* job) {
    const int wanted = job->open;
    int free = 0;
    bool all = false;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++busy_;
      int promised = 0;  // to the other jobs
      for (const Job* other = first_; other; other = other->next) promised += other->open;
      Append(job);
      posted_.fetch_add(1, std::memory_order_release);
      while (started_ < std::min(serving_ + promised + wanted, threads() - 1)) {
        if (!StartHelper()) break;
        ++started_;
      }
      if (stacked_) KeepAwayFrom(busy_ == 1 ? job->processor : -1);
      free = std::min({wanted, started_ - serving_ - promised, threads() - busy_ - promised});
      all = wanted >= started_;
    }
    if (all) {
      work_.notify_all();  // takes the caller half as long as one by one
    } else {
      for (int i = 0; i < wanted; ++i) work_.notify_one();
    }
    return free;
  }

  // Returns whether there are the memory and the thread for it: the caller does the work with those there are.
  bool StartHelper() {
    // A program that waits for signals must get them, so helpers do not; but for those of a fault of their own.
    sigset_t all, before;
    sigfillset(&all);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = true;
    try {
      std::thread([this] { Serve(); }).detach();
    } catch (...) {
      started = false;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started;
  }

  // Helpers that sleep must not wake up on the processor that their caller works on. Where more of them work than there
  // are other processors they may run anywhere.
  void KeepAwayFrom(int processor) {
    if (std::min(started_, threads() - 1) >= ProcessorCount()) processor = -1;
    for (Helper* helper = helpers_; helper; helper = helper->next) helper->KeepAwayFrom(processor);
  }

  // Returns when no helper is inside the job and none can join it any more.
  void Finish(Job* job) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      Forget(job);
      --busy_;
      if (first_) work_.notify_one();  // this thread's share of the processors is free for another's job
    }
    const auto left = [job] { return job->inside.load(std::memory_order_acquire) == 0; };
    if (SpinUntil(left)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    for (Helper* helper = helpers_; helper; helper = helper->next) {
      if (helper->job == job) helper->KeepAwayFrom(-1);  // this thread's processor is free for it
    }
    done_.wait(lock, left);
  }

  void Append(Job* job) {
    Job** end = &first_;
    while (*end) end = &(*end)->next;
    *end = job;
  }

  void Forget(Job* job) {
    Job** place = &first_;
    while (*place && *place != job) place = &(*place)->next;
    if (!*place) return;
    *place = job->next;
    job->next = nullptr;
  }

  void Serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    Helper self{helpers_};
    helpers_ = &self;
    self.KeepAwayFrom(-1);
    while (true) {
      if (!first_) {
        const unsigned seen = posted_.load(std::memory_order_relaxed);
        lock.unlock();
        SpinUntil([&] { return posted_.load(std::memory_order_acquire) != seen; });
        lock.lock();
      }
      work_.wait(lock, [this] { return first_ && busy_ < threads(); });
      Job* job = first_;
      ++busy_;
      ++serving_;
      self.job = job;
      job->inside.fetch_add(1, std::memory_order_relaxed);
      const int rank = ++job->joined;
      if (--job->open == 0) Forget(job);
      if (CurrentProcessor() == job->processor) {
        stacked_ = true;
        KeepAwayFrom(job->processor);
      }
      lock.unlock();
      std::fesetenv(&job->environment);
      job->work(*job, rank);
      lock.lock();
      Forget(job);  // its tasks are all claimed
      --busy_;
      --serving_;
      self.job = nullptr;
      if (job->inside.fetch_sub(1, std::memory_order_release) == 1) done_.notify_all();
    }
  }

  // A thread that serves; lives as long as the process. Guarded by the mutex.
  struct Helper {
    static constexpr int kInherited = -2;  // it may run where the thread may that started it

    explicit Helper(Helper* others) : next(others) {}

    void KeepAwayFrom(int processor) {
      if (processor == away_from || bound) return;
      bound = away_from != kInherited && !RunsOnProcessorsBut(away_from, thread);
      if (bound) return;
      away_from = processor;
      RunOnProcessorsBut(processor, thread);
    }

    Helper* const next;
    const std::thread::native_handle_type thread = pthread_self();
    const Job* job = nullptr;    // that it is at work for
    int away_from = kInherited;  // the processor; -1: none
    bool bound = false;          // by somebody else, who knows better
  };

  Counts counts_;           // guarded by the mutex
  std::atomic<int> limit_;  // what they decide
  std::mutex mutex_;
  std::condition_variable work_, done_;
  Job* first_ = nullptr;             // jobs that helpers may join, the oldest first
  std::atomic<unsigned> posted_{0};  // counts jobs, for those on the lookout
  int busy_ = 0;                     // threads at work, callers included: at most the limit, but for callers
  int started_ = 0;                  // helpers; they live as long as the process and sleep when idle
  int serving_ = 0;                  // those at work
  Helper* helpers_ = nullptr;        // those that run
  // Whether a helper has woken up on its caller's processor. There it comes when the caller has used up its time, after
  // some ms, or the caller stops for it. Seen on a virtual machine after pauses, while another processor was free.
  bool stacked_ = false;
};

// Never destroyed: threads may outlive static destruction.
std::atomic<ThreadPool*> pool{nullptr};
std::mutex pool_mutex;

ThreadPool& Pool(Count (*first_count)() = &InitialCount) {
  if (ThreadPool* p = pool.load(std::memory_order_acquire)) return *p;
  const std::lock_guard<std::mutex> lock(pool_mutex);
  if (!pool.load()) {
    pool.store(new ThreadPool(Counts{first_count(), {}}), std::memory_order_release);
  }
  return *pool.load();
}

}  // namespace

void LockPool() {
  pool_mutex.lock();
  if (ThreadPool* p = pool.load()) p->mutex().lock();
}

void UnlockPool() {
  if (ThreadPool* p = pool.load()) p->mutex().unlock();
  pool_mutex.unlock();
}

void RestartPool() {
  if (ThreadPool* p = pool.load()) p->StartOver();
  pool_mutex.unlock();
}

Parallel& OwnThreads() { return Pool(); }

int ThreadCount() { return Pool().threads(); }

const char* ThreadCountSource() { return Pool().source(); }

void SetThreadCount(std::optional<int> count) {
  if (count && (*count < 1 || *count > kMostThreads)) {
    throw std::invalid_argument("threads: expected an integer from 1 to " + std::to_string(kMostThreads) + "; found " +
                                std::to_string(*count));
  }
  const auto any = [] { return Count{1, "processors", false}; };  // a bad variable does not matter where a count is set
  const Count own = count ? Count{*count, "lstm_fast.config", true} : InitialCount();
  Pool(any).Resize(own);
}

void FollowThreadCount(int count, const char* source) { Pool().Follow({count, source, false}); }

}  // namespace lstm_fast
