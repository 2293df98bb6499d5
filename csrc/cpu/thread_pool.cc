// The package's own threads.
#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

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

// A call of Run(): tasks are claimed one by one by the caller and by the helpers that join it.
struct Job {
  int64_t count;
  void (*task)(void*, int64_t);
  void* context;
  std::atomic<int64_t> next{0};
  int helpers = 0;  // guarded by the pool's mutex

  void Work() {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(context, i);
  }
  bool Exhausted() const { return next.load() >= count; }
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
    Job job{count, task, context};
    std::unique_lock<std::mutex> lock(mutex_);
    ++busy_;
    jobs_.push_back(&job);
    const int wanted = static_cast<int>(std::min<int64_t>(count, threads())) - 1;
    while (started_ < wanted) {
      try {
        std::thread([this] { Serve(); }).detach();
      } catch (const std::system_error&) {
        break;  // no more threads to be had: the caller does the work with those there are
      }
      ++started_;
    }
    lock.unlock();
    for (int i = 0; i < wanted; ++i) work_.notify_one();
    job.Work();
    lock.lock();
    Forget(&job);
    --busy_;
    work_.notify_one();  // this thread's share of the processors is free for another caller's job
    done_.wait(lock, [&job] { return job.helpers == 0; });
  }

  std::mutex& mutex() { return mutex_; }

 private:
  void Forget(const Job* job) {
    const auto found = std::find(jobs_.begin(), jobs_.end(), job);
    if (found != jobs_.end()) jobs_.erase(found);
  }

  void Serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      work_.wait(lock, [this] { return !jobs_.empty() && busy_ < threads(); });
      Job* job = jobs_.front();
      if (job->Exhausted()) {
        jobs_.pop_front();
        continue;
      }
      ++busy_;
      ++job->helpers;
      lock.unlock();
      job->Work();
      lock.lock();
      Forget(job);
      --busy_;
      if (--job->helpers == 0) done_.notify_all();
    }
  }

  std::atomic<int> limit_;
  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<Job*> jobs_;
  int busy_ = 0;     // threads at work, callers included: at most the limit, but for callers
  int started_ = 0;  // helpers; they live as long as the process and sleep when idle
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
