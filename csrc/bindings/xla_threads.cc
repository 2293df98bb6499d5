#include "bindings/xla_threads.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

#include "cpu/spin.h"

namespace lstm_fast::xla {
namespace {

// Whether a call of XLA's interface succeeded; a failure here means fewer threads, not a wrong result.
bool Succeeded(const Api* api, Error* error) {
  if (!error) return true;
  DestroyError arguments = {sizeof arguments, nullptr, error};
  api->destroy_error(&arguments);
  return false;
}

}  // namespace

// A call of Run() or RunTogether(). XLA starts a helper when it can: perhaps only after the call, when there must be
// nothing left for it to do or to touch but the job, which it owns a share of.
class XlaThreads::Job {
 public:
  explicit Job(std::function<void(int rank)> work, bool together) : work_(std::move(work)), together_(together) {
    std::fegetenv(&environment_);
  }

  // What the caller does.
  void Work() const { work_(0); }
  bool AllCame(int helpers) const {
    return inside_.load(std::memory_order_acquire) + refused_.load(std::memory_order_relaxed) >= helpers;
  }

  // Lets no helper join any more; returns how many have.
  int Close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    return joined_;
  }

  // Returns when no helper is at work; after Close().
  void WaitUntilLeft() {
    const auto left = [this] { return inside_.load(std::memory_order_acquire) == 0; };
    if (SpinUntil(left)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    left_.wait(lock, left);
  }

  // What a helper does.
  void Help() {
    int rank = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      // XLA may run a task in the thread that offers it, which cannot be together with itself.
      if (closed_ || (together_ && std::this_thread::get_id() == caller_)) {
        refused_.fetch_add(1, std::memory_order_relaxed);
        return;
      }
      rank = ++joined_;
      inside_.fetch_add(1, std::memory_order_release);
    }
    std::fenv_t before;
    std::fegetenv(&before);
    std::fesetenv(&environment_);
    work_(rank);
    std::fesetenv(&before);
    const std::lock_guard<std::mutex> lock(mutex_);
    inside_.fetch_sub(1, std::memory_order_release);
    left_.notify_all();
  }

 private:
  const std::function<void(int)> work_;
  const bool together_;
  const std::thread::id caller_ = std::this_thread::get_id();
  std::fenv_t environment_;  // the caller's, on which the bits depend
  std::mutex mutex_;
  std::condition_variable left_;
  bool closed_ = false;
  int joined_ = 0;
  std::atomic<int> inside_{0}, refused_{0};
};

XlaThreads::XlaThreads(const Api* api, Context* context) : api_(api), context_(context) {
  // Older runtimes of version 0.1 may not have these functions; they do not say how long their table is.
  if (api->struct_size < sizeof(Api)) return;
  int64_t count = 0;
  NumThreads arguments = {sizeof arguments, nullptr, context, &count};
  if (Succeeded(api, api->num_threads(&arguments))) {
    threads_ = static_cast<int>(std::min<int64_t>(count, ThreadCount()));
  }
}

void XlaThreads::Run(int64_t count, void (*task)(void*, int64_t), void* context) {
  const int helpers = static_cast<int>(std::min<int64_t>(count, threads_)) - 1;
  if (helpers < 1) {
    for (int64_t i = 0; i < count; ++i) task(context, i);
    return;
  }
  std::atomic<int64_t> next{0};
  const auto work = [&](int) {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(context, i);
  };
  const auto job = std::make_shared<Job>(work, false);
  Offer(job, helpers);
  job->Work();
  job->Close();
  job->WaitUntilLeft();
}

void XlaThreads::RunTogether(int wanted, std::chrono::microseconds patience, void (*task)(void*, int, int),
                             void* context) {
  const int helpers = std::min(wanted, threads_) - 1;
  if (helpers < 1) {
    task(context, 0, 1);
    return;
  }
  std::atomic<int> size{0};
  const auto work = [&](int rank) { task(context, rank, WaitForSize(size)); };
  const auto job = std::make_shared<Job>(work, true);
  const int offered = Offer(job, helpers);
  SpinUntil([&] { return job->AllCame(offered); }, patience);
  size.store(1 + job->Close(), std::memory_order_release);
  job->Work();
  job->WaitUntilLeft();
}

int XlaThreads::Offer(const std::shared_ptr<Job>& job, int helpers) {
  const auto help = [](void* data) {
    const std::unique_ptr<std::shared_ptr<Job>> share(static_cast<std::shared_ptr<Job>*>(data));
    (*share)->Help();
  };
  int offered = 0;
  for (int i = 0; i < helpers; ++i) {
    // No exception from here on: helpers may be at work on what the caller's frame holds.
    auto* share = new (std::nothrow) std::shared_ptr<Job>(job);
    if (!share) break;
    Schedule arguments = {sizeof arguments, nullptr, context_, help, share};
    if (Succeeded(api_, api_->schedule(&arguments))) {
      ++offered;
    } else {
      delete share;
    }
  }
  return offered;
}

}  // namespace lstm_fast::xla
