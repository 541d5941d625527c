/* cuda_on_host.h: just enough CUDA for a kernel header to run as host C++ under sanitizers.
 *
 * A block is a set of threads, one each lane; a warp shuffle is an exchange through memory between
 * two barriers, and shared memory is static, since blocks run one after another. What it cannot
 * show: occupancy, timing, races within a warp. A lane that leaves a shuffle or a barrier out
 * hangs, which the caller's time limit turns into a failure.
 */
#pragma once
#include <barrier>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct Extent {
  unsigned x;
};

inline thread_local Extent threadIdx, blockIdx, blockDim, gridDim;

struct Warp {
  std::barrier<> meet{32};
  unsigned char slots[32][8];
};

inline thread_local Warp *current_warp;
inline thread_local std::barrier<> *current_block;

inline void __syncthreads() { current_block->arrive_and_wait(); }

template <typename T> T exchange(unsigned lanes, T mine, int source) {
  static_assert(sizeof(T) <= 8);
  if (lanes != 0xffffffffu) {
    std::fprintf(stderr, "only shuffles of the whole warp are emulated\n");
    std::abort();
  }
  const int lane = static_cast<int>(threadIdx.x % 32);
  std::memcpy(current_warp->slots[lane], &mine, sizeof(T));
  current_warp->meet.arrive_and_wait();
  T theirs;
  std::memcpy(&theirs, current_warp->slots[source < 0 ? lane : source], sizeof(T));
  current_warp->meet.arrive_and_wait();
  return theirs;
}

template <typename T> T __shfl_up_sync(unsigned lanes, T mine, int offset) {
  return exchange(lanes, mine, static_cast<int>(threadIdx.x % 32) - offset);
}

template <typename T> T __shfl_sync(unsigned lanes, T mine, int source) {
  return exchange(lanes, mine, source);
}

template <typename T> T __shfl_xor_sync(unsigned lanes, T mine, int mask) {
  return exchange(lanes, mine, static_cast<int>(threadIdx.x % 32) ^ mask);
}

/* Run `kernel` on every thread of every block, blocks one after another; no template, since threads
 * made anew for each of thirty kernels take most of the compiler's time. */
inline void launch(unsigned blocks, unsigned threads, const std::function<void()> &kernel) {
  for (unsigned block = 0; block < blocks; ++block) {
    const auto warps = std::make_unique<Warp[]>(threads / 32);
    std::barrier<> meet{static_cast<std::ptrdiff_t>(threads)};
    std::vector<std::thread> lanes;
    for (unsigned thread = 0; thread < threads; ++thread)
      lanes.emplace_back([&, thread] {
        threadIdx.x = thread, blockIdx.x = block, blockDim.x = threads, gridDim.x = blocks;
        current_warp = &warps[thread / 32], current_block = &meet;
        kernel();
      });
    for (auto &lane : lanes)
      lane.join();
  }
}
