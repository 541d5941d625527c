/* softmax_kernel.cuh: the blocked softmax on a GPU. No torch header, so nvcc alone compiles it.
 *
 * One warp per row: lanes stride over the block's columns, so that loads coalesce, and meet in warp
 * shuffles. Two reads of a row (the second from cache) and at most one write.
 *
 * Shapes    logits: (N, B) contiguous, overwritten; tokens: (N,); bias: (B,) or null;
 *           state: (N, kSoftmaxState); rows: (N, kSlopeRow).
 * Grid      any number of blocks of kSoftmaxThreads threads; warps stride over rows.
 * Reference rlaif_pl/ops/reference.py::softmax_block_, softmax_slope_; tests/ops/test_linear.py,
 *           tests/ops/test_cuda_emulation.py.
 */
#pragma once
#include <cmath>
#include <cstdint>

#include "../math/softmax.h"
#include "warp.cuh"

namespace rlaif_pl {

constexpr int kSoftmaxThreads = 128;

struct GpuMath {
  template <typename acc_t> static RLAIF_PL_HD acc_t exp_negative(acc_t x) { return std::exp(x); }
};

template <typename acc_t, typename scalar_t>
__device__ __forceinline__ Shaped<acc_t> shaped_at(const scalar_t *row, const acc_t *bias, int64_t i,
                                                   const Shape<acc_t> &shape) {
  const acc_t logit = static_cast<acc_t>(row[i]) + (bias == nullptr ? acc_t(0) : bias[i]);
  return shaped<GpuMath>(logit, shape);
}

template <typename acc_t, typename scalar_t>
__global__ void __launch_bounds__(kSoftmaxThreads)
    softmax_block_kernel(scalar_t *logits, const int64_t *__restrict__ tokens,
                         const acc_t *__restrict__ bias, acc_t *state, int64_t start,
                         Shape<acc_t> shape, bool weighted, int64_t N, int64_t B) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps_per_block = blockDim.x / kWarp;
  const int64_t num_warps = gridDim.x * warps_per_block;
  for (int64_t n = blockIdx.x * warps_per_block + threadIdx.x / kWarp; n < N; n += num_warps) {
    scalar_t *row = logits + n * B;
    acc_t mine[kSoftmaxState];
    for (int k = 0; k < kSoftmaxState; ++k)
      mine[k] = state[n * kSoftmaxState + k];
    const int64_t token = tokens[n] - start;
    if (token >= 0 && token < B)
      mine[kTaken] = shaped_at(row, bias, token, shape).z;
    acc_t largest = mine[kMax];
    for (int64_t i = lane; i < B; i += kWarp) {
      const acc_t z = shaped_at(row, bias, i, shape).z;
      largest = z > largest ? z : largest;
    }
    const acc_t offset = softmax_rescale<GpuMath>(mine, warp_max(largest));
    acc_t sum = 0, moment = 0;
    for (int64_t i = lane; i < B; i += kWarp) {
      const auto one = shaped_at(row, bias, i, shape);
      const acc_t gap = one.z - offset, weight = std::exp(gap);
      sum += weight;
      moment += weight == acc_t(0) ? acc_t(0) : weight * gap;
      if (weighted)
        row[i] = static_cast<scalar_t>(weight * one.slope);
    }
    mine[kSum] += warp_sum(sum);
    mine[kMoment] += warp_sum(moment);
    // Every lane has read the state by now: the shuffles above wait for all of them.
    if (lane == 0)
      for (int k = 0; k < kSoftmaxState; ++k)
        state[n * kSoftmaxState + k] = mine[k];
  }
}

template <typename acc_t, typename scalar_t>
__global__ void __launch_bounds__(kSoftmaxThreads)
    softmax_slope_kernel(scalar_t *logits, const int64_t *__restrict__ tokens,
                         const acc_t *__restrict__ bias, const acc_t *__restrict__ rows,
                         int64_t start, Shape<acc_t> shape, int64_t N, int64_t B) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps_per_block = blockDim.x / kWarp;
  const int64_t num_warps = gridDim.x * warps_per_block;
  for (int64_t n = blockIdx.x * warps_per_block + threadIdx.x / kWarp; n < N; n += num_warps) {
    const SlopeRow<acc_t> row = slope_row(rows + n * kSlopeRow);
    const int64_t token = tokens[n] - start;
    for (int64_t i = lane; i < B; i += kWarp) {
      const auto one = shaped_at(logits + n * B, bias, i, shape);
      acc_t slope = softmax_slope<GpuMath>(one, shape, row);
      if (i == token)
        slope += row.grad_logprob * one.slope * shape.inv_temperature;
      logits[n * B + i] = static_cast<scalar_t>(slope);
    }
  }
}

} // namespace rlaif_pl
