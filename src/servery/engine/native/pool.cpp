#include "pool.h"

#include <chrono>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace {

// About as long as a step of a model has no work for the pool; a sleeping thread takes as long to wake.
constexpr auto SPIN = std::chrono::microseconds(60);
constexpr int SPINS_PER_LOOK = 64;
// Pieces per thread: enough that a thread that is held up leaves its share to the others.
constexpr long PIECES = 4;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

void stay_on(int cpu) {
#if defined(__linux__)
  if (cpu < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  // Where this is not allowed the thread runs anywhere.
  (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);
#else
  (void)cpu;
#endif
}

}  // namespace

Pool::Pool(int threads, const int *cpus) {
  for (int i = 1; i < threads; i++) workers_.emplace_back(&Pool::serve, this, cpus ? cpus[i] : -1);
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    is_closing_ = true;
    job_.fetch_add(1);
  }
  wake_.notify_all();
  for (auto &worker : workers_) worker.join();
}

void Pool::share(long count, long grain, Call call, const void *data) {
  long piece = count / (threads() * PIECES);
  call_ = call, data_ = data, count_ = count, piece_ = piece > grain ? piece : grain;
  next_.store(0, std::memory_order_relaxed);
  busy_.store((int)workers_.size(), std::memory_order_relaxed);
  // Ordered with asleep_, see wait_for_job: either this sees the sleeper or the sleeper sees the job.
  job_.fetch_add(1, std::memory_order_seq_cst);
  if (asleep_.load(std::memory_order_seq_cst)) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  work_on_job();
  for (int spins = 0; busy_.load(std::memory_order_acquire); spins++) {
    if (spins < 4096) relax();
    else std::this_thread::yield();  // a worker's core is somebody else's for the moment
  }
}

void Pool::work_on_job() {
  for (;;) {
    long begin = next_.fetch_add(piece_, std::memory_order_relaxed);
    if (begin >= count_) return;
    call_(data_, begin, begin + piece_ < count_ ? begin + piece_ : count_);
  }
}

void Pool::serve(int cpu) {
  stay_on(cpu);
  unsigned seen = 0;
  while (wait_for_job(&seen)) {
    work_on_job();
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

// Wait for a job after `seen`; false when the pool closes.
bool Pool::wait_for_job(unsigned *seen) {
  auto until = std::chrono::steady_clock::now() + SPIN;
  while (job_.load(std::memory_order_acquire) == *seen) {
    for (int i = 0; i < SPINS_PER_LOOK && job_.load(std::memory_order_relaxed) == *seen; i++) relax();
    if (std::chrono::steady_clock::now() < until) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    asleep_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] { return job_.load(std::memory_order_seq_cst) != *seen; });
    asleep_.fetch_sub(1);
  }
  *seen = job_.load(std::memory_order_acquire);
  std::atomic_thread_fence(std::memory_order_acquire);
  if (!is_closing_) return true;
  return false;
}
