/* gae_kernel.cuh: the advantage scan on a GPU. No torch header, so nvcc alone compiles it.
 *
 * One warp per row. The row is cut from its end into chunks of 32 steps, lane 0 holding the last.
 * Within a chunk the affine maps of math/gae.h are composed by an inclusive scan of five warp
 * shuffles; lanes beyond the first step hold the identity. The advantage of the chunk's earliest
 * step is carried into the next chunk.
 *
 * Shapes    rewards, values, advantages, returns: (N, T) contiguous; lengths, bootstrap: (N,).
 *           A length outside [0, T] acts as the nearer bound: looking would wait for the device.
 * Grid      any number of blocks of kGaeThreads threads; warps stride over rows.
 * Cost      reads 2NT + 2N elements (values[t + 1] from cache), writes 2NT; memory bound.
 * Reference rlaif_pl/ops/reference.py::gae; tests/ops/test_gae.py,
 * tests/ops/test_cuda_emulation.py.
 */
#pragma once
#include <cstdint>

#include "../math/gae.h"
#include "warp.cuh"

namespace rlaif_pl {

constexpr int kGaeThreads = 128;

/* Compose each lane's map with those of all lanes below it (later steps of the row). */
template <typename acc_t>
__device__ __forceinline__ Affine<acc_t> scan_from_the_end(Affine<acc_t> map, int lane) {
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const Affine<acc_t> later{__shfl_up_sync(kAllLanes, map.scale, offset),
                              __shfl_up_sync(kAllLanes, map.shift, offset)};
    if (lane >= offset)
      map = compose(map, later);
  }
  return map;
}

template <typename acc_t, typename scalar_t>
__global__ void __launch_bounds__(kGaeThreads)
    gae_kernel(const scalar_t *__restrict__ rewards, const scalar_t *__restrict__ values,
               const int64_t *__restrict__ lengths, const scalar_t *__restrict__ bootstrap,
               scalar_t *__restrict__ advantages, scalar_t *__restrict__ returns, int64_t N,
               int64_t T, acc_t gamma, acc_t decay) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps_per_block = blockDim.x / kWarp;
  const int64_t num_warps = gridDim.x * warps_per_block;
  for (int64_t n = blockIdx.x * warps_per_block + threadIdx.x / kWarp; n < N; n += num_warps) {
    const int64_t row = n * T;
    const int64_t asked = lengths[n];
    const int64_t length = asked < 0 ? 0 : (asked > T ? T : asked);
    for (int64_t t = length + lane; t < T; t += kWarp) {
      advantages[row + t] = scalar_t(0.0f);
      returns[row + t] = scalar_t(0.0f);
    }
    acc_t carry = 0;
    for (int64_t end = length; end > 0; end -= kWarp) {
      const int64_t t = end - 1 - lane;
      Affine<acc_t> map{acc_t(1), acc_t(0)};
      acc_t value = 0;
      if (t >= 0) {
        value = static_cast<acc_t>(values[row + t]);
        const acc_t next_value =
            static_cast<acc_t>(t + 1 < length ? values[row + t + 1] : bootstrap[n]);
        map = gae_step(static_cast<acc_t>(rewards[row + t]), value, next_value, gamma, decay);
      }
      const acc_t advantage = scan_from_the_end(map, lane)(carry);
      if (t >= 0) {
        advantages[row + t] = static_cast<scalar_t>(advantage);
        returns[row + t] = static_cast<scalar_t>(advantage + value);
      }
      carry = __shfl_sync(kAllLanes, advantage, kWarp - 1);
    }
  }
}

} // namespace rlaif_pl
