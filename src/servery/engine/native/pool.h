// A few threads that compute one job together: the caller takes part, and returns when all is done.
//
// Workers wait for the next job spinning for a while, since within a step of a model it comes in microseconds, and then
// asleep. Each thread has a part of the work of its own, so that what it reads lies together and is the same in every
// step; it takes it piece by piece, and then pieces of the others' parts, so that one that is held up by others on its
// core, or is still asleep, does not hold up the job.
#pragma once
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

class Pool {
 public:
  // `cpus` [threads] are where threads run, one each, the caller where it is now; null: anywhere the process may.
  Pool(int threads, const int *cpus);
  ~Pool();
  Pool(const Pool &) = delete;
  Pool &operator=(const Pool &) = delete;

  int threads() const { return (int)workers_.size() + 1; }

  // Call `work(begin, end)` for pieces of [0, count) of at least `grain` each.
  template <class Work>
  void run(long count, long grain, const Work &work) {
    if (workers_.empty() || count <= grain) {
      work(0, count);
      return;
    }
    share(count, grain, [](const void *data, long begin, long end) { (*(const Work *)data)(begin, end); }, &work);
  }

 private:
  typedef void (*Call)(const void *, long, long);
  void share(long count, long grain, Call call, const void *data);
  void take_pieces(int thread);
  bool take_piece_of(int thread);
  void serve(int thread, int cpu);
  bool wait_for_work();

  // What a thread begins with: [begin, end) in pieces, of which so many are taken.
  struct alignas(64) Part {
    long begin = 0, end = 0;
    std::atomic<long> taken{0};
  };

  std::vector<std::thread> workers_;
  std::unique_ptr<Part[]> parts_;
  Call call_ = nullptr;
  const void *data_ = nullptr;
  long piece_ = 1, pieces_ = 0;
  alignas(64) std::atomic<long> left_{0};  // pieces that nobody has taken; below 0 after all were
  alignas(64) std::atomic<long> done_{0};
  std::atomic<bool> is_closing_{false};
  std::atomic<int> asleep_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};
