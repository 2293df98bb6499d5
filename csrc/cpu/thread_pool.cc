// The package's own threads.
#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include "cpu/spin.h"
#include "lstm_fast/parallel.h"

namespace lstm_fast {
namespace {

int ProcessorsOfThisProcess() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int InitialThreadCount() {
  const char* text = std::getenv("LSTM_FAST_NUM_THREADS");
  if (!text || !*text) return ProcessorsOfThisProcess();
  char* end = nullptr;
  const long count = std::strtol(text, &end, 10);
  if (*end != '\0' || count < 1 || count > 4096) {
    throw std::invalid_argument("LSTM_FAST_NUM_THREADS: expected an integer from 1 to 4096; found '" +
                                std::string(text) + "'");
  }
  return static_cast<int>(count);
}

// A call of Run() or RunTogether(): helpers join it, by which it stays alive until they have left.
struct Job {
  Job(int most_helpers, void (*work_of_job)(Job&, int rank)) : open(most_helpers), work(work_of_job) {
    std::fegetenv(&environment);
  }

  int open;                    // helpers that may still join; guarded by the pool's mutex
  int joined = 0;              // guarded likewise
  std::atomic<int> inside{0};  // helpers at work
  void (*work)(Job&, int rank);
  // The caller's: TensorFlow's threads flush subnormal numbers to zero, Python's do not, and the bits of a call must
  // not depend on which of them started a helper.
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
    int members = self.size.load(std::memory_order_acquire);
    for (; members == 0; members = self.size.load(std::memory_order_acquire)) Pause();
    self.task(self.context, rank, members);
  }

  void (*task)(void*, int, int);
  void* context;
  std::atomic<int> size{0};
};

class ThreadPool final : public Parallel {
 public:
  explicit ThreadPool(int thread_count) : limit_(thread_count) {}

  int threads() const override { return limit_.load(); }

  void Resize(int count) {
    const std::lock_guard<std::mutex> lock(mutex_);
    limit_.store(count);
    work_.notify_all();
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

  void RunTogether(int wanted, void (*task)(void*, int, int), void* context) override {
    const int helpers = std::min(wanted, threads()) - 1;
    if (helpers < 1) {
      task(context, 0, 1);
      return;
    }
    TeamJob job(helpers, task, context);
    Post(&job);
    SpinUntil([&] { return job.inside.load(std::memory_order_acquire) == helpers; });
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      Forget(&job);
      job.size.store(1 + job.joined, std::memory_order_release);
    }
    job.Work(job, 0);
    Finish(&job);
  }

  std::mutex& mutex() { return mutex_; }

 private:
  // Offers a job to the helpers; the calling thread counts as busy until Finish().
  void Post(Job* job) {
    const int wanted = job->open;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++busy_;
      jobs_.push_back(job);
      posted_.fetch_add(1, std::memory_order_release);
      while (started_ < wanted) {
        try {
          std::thread([this] { Serve(); }).detach();
        } catch (const std::system_error&) {
          break;  // no more threads to be had: the caller does the work with those there are
        }
        ++started_;
      }
    }
    for (int i = 0; i < wanted; ++i) work_.notify_one();
  }

  // Returns when no helper is inside the job and none can join it any more.
  void Finish(Job* job) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      Forget(job);
      --busy_;
      if (!jobs_.empty()) work_.notify_one();  // this thread's share of the processors is free for another's job
    }
    const auto left = [job] { return job->inside.load(std::memory_order_acquire) == 0; };
    if (SpinUntil(left)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, left);
  }

  void Forget(const Job* job) {
    const auto found = std::find(jobs_.begin(), jobs_.end(), job);
    if (found != jobs_.end()) jobs_.erase(found);
  }

  void Serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      if (jobs_.empty()) {
        const unsigned seen = posted_.load(std::memory_order_relaxed);
        lock.unlock();
        SpinUntil([&] { return posted_.load(std::memory_order_acquire) != seen; });
        lock.lock();
      }
      work_.wait(lock, [this] { return !jobs_.empty() && busy_ < threads(); });
      Job* job = jobs_.front();
      ++busy_;
      job->inside.fetch_add(1, std::memory_order_relaxed);
      const int rank = ++job->joined;
      if (--job->open == 0) Forget(job);
      lock.unlock();
      std::fesetenv(&job->environment);
      job->work(*job, rank);
      lock.lock();
      Forget(job);  // its tasks are all claimed
      --busy_;
      if (job->inside.fetch_sub(1, std::memory_order_release) == 1) done_.notify_all();
    }
  }

  std::atomic<int> limit_;
  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<Job*> jobs_;
  std::atomic<unsigned> posted_{0};  // counts jobs, for those on the lookout
  int busy_ = 0;                     // threads at work, callers included: at most the limit, but for callers
  int started_ = 0;                  // helpers; they live as long as the process and sleep when idle
};

// Never destroyed: threads may outlive static destruction.
std::atomic<ThreadPool*> pool{nullptr};
std::mutex pool_mutex;

void BeforeFork() {
  pool_mutex.lock();
  if (ThreadPool* p = pool.load()) p->mutex().lock();
}

void AfterForkInParent() {
  if (ThreadPool* p = pool.load()) p->mutex().unlock();
  pool_mutex.unlock();
}

// The child has none of the helpers: it starts over with a pool of its own.
void AfterForkInChild() {
  if (ThreadPool* p = pool.load()) {
    p->mutex().unlock();
    pool.store(new ThreadPool(p->threads()));
  }
  pool_mutex.unlock();
}

ThreadPool& Pool() {
  if (ThreadPool* p = pool.load(std::memory_order_acquire)) return *p;
  const std::lock_guard<std::mutex> lock(pool_mutex);
  if (!pool.load()) {
    const int count = InitialThreadCount();
    static const int registered = pthread_atfork(BeforeFork, AfterForkInParent, AfterForkInChild);
    static_cast<void>(registered);
    pool.store(new ThreadPool(count), std::memory_order_release);
  }
  return *pool.load();
}

}  // namespace

Parallel& OwnThreads() { return Pool(); }

int ThreadCount() { return Pool().threads(); }

void SetThreadCount(int count) {
  if (count < 1) throw std::invalid_argument("threads: expected at least 1; found " + std::to_string(count));
  Pool().Resize(count);
}

}  // namespace lstm_fast
