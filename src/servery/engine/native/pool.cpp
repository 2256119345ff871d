#include "pool.h"

#include <chrono>
#include <utility>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace {

// About as long as a step of a model has no work for the pool; a sleeping thread takes as long to wake.
constexpr auto SPIN = std::chrono::microseconds(60);
constexpr int SPINS_PER_LOOK = 64;
constexpr int SPINS_FOR_OTHERS = 4096;
// Pieces per thread: enough that a thread that is held up leaves its share to the others, and that at the end nobody
// waits long for the last one.
constexpr long PIECES = 8;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

int current_cpu() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
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
  // The caller is not told where to run: it belongs to somebody else. Workers leave it the core that it is on.
  std::vector<int> places(threads, -1);
  if (cpus) places.assign(cpus, cpus + threads);
  for (int i = 1; i < threads; i++)
    if (places[i] == current_cpu()) std::swap(places[0], places[i]);
  parts_.reset(new Part[threads]);
  for (int i = 1; i < threads; i++) workers_.emplace_back(&Pool::serve, this, i, places[i]);
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    is_closing_.store(true);
  }
  wake_.notify_all();
  for (auto &worker : workers_) worker.join();
}

void Pool::share(long count, long grain, Call call, const void *data) {
  long all = (long)workers_.size() + 1, piece = (count / all + PIECES - 1) / PIECES;
  call_ = call, data_ = data, piece_ = piece > grain ? piece : grain, pieces_ = 0;
  for (long i = 0; i < all; i++) {
    Part &part = parts_[i];
    part.begin = count * i / all, part.end = count * (i + 1) / all;
    part.taken.store(0, std::memory_order_relaxed);
    pieces_ += (part.end - part.begin + piece_ - 1) / piece_;
  }
  done_.store(0, std::memory_order_relaxed);
  // Ordered with asleep_, see wait_for_work: either this sees the sleeper or the sleeper sees the work.
  left_.store(pieces_, std::memory_order_seq_cst);
  if (asleep_.load(std::memory_order_seq_cst)) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  take_pieces(0);
  for (int spins = 0; done_.load(std::memory_order_acquire) != pieces_; spins++) {
    if (spins < SPINS_FOR_OTHERS) relax();
    else std::this_thread::yield();  // a worker's core is somebody else's for the moment
  }
}

// Whoever gets a piece of a job keeps the job from ending, so that what describes it is still there; one who comes late
// gets a piece of the next job, or none.
void Pool::take_pieces(int thread) {
  while (left_.fetch_sub(1, std::memory_order_acq_rel) > 0) {
    // One piece at least is there for whoever got here, perhaps of somebody else's part.
    for (int i = thread; !take_piece_of(i);) i = i + 1 < threads() ? i + 1 : 0;
    done_.fetch_add(1, std::memory_order_release);
  }
}

bool Pool::take_piece_of(int thread) {
  Part &part = parts_[thread];
  long begin = part.begin + part.taken.fetch_add(1, std::memory_order_relaxed) * piece_;
  if (begin >= part.end) return false;
  call_(data_, begin, begin + piece_ < part.end ? begin + piece_ : part.end);
  return true;
}

void Pool::serve(int thread, int cpu) {
  stay_on(cpu);
  while (wait_for_work()) take_pieces(thread);
}

// False when the pool closes.
bool Pool::wait_for_work() {
  auto until = std::chrono::steady_clock::now() + SPIN;
  while (left_.load(std::memory_order_acquire) <= 0) {
    for (int i = 0; i < SPINS_PER_LOOK && left_.load(std::memory_order_relaxed) <= 0; i++) relax();
    if (is_closing_.load(std::memory_order_relaxed)) return false;
    if (std::chrono::steady_clock::now() < until) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    asleep_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] { return left_.load(std::memory_order_seq_cst) > 0 || is_closing_.load(); });
    asleep_.fetch_sub(1);
    until = std::chrono::steady_clock::now() + SPIN;
  }
  return !is_closing_.load(std::memory_order_relaxed);
}
