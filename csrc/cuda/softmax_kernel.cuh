/* softmax_kernel.cuh: the softmax over blocks of columns on a GPU. No torch header, so nvcc alone
 * compiles it.
 *
 * One block of threads a row, which is read 16 bytes at a time. Every thread keeps the maximum and
 * the sums of its entries as it goes, and these are merged in warp shuffles and shared memory: one
 * read of a row, and, where its weights are wanted, a second one with a write.
 *
 * Shapes    logits: (N, B) contiguous, overwritten; tokens: (N,); bias: (B,) or null;
 *           state: (N, kSoftmaxState); rows: (N, kSlopeRow).
 * Grid      any number of blocks of kSoftmaxThreads threads, which stride over rows.
 * Reference rlaif_pl/ops/reference.py::online_softmax_update_, online_softmax_backward_;
 *           tests/ops/test_linear.py, tests/ops/test_cuda_emulation.py.
 */
#pragma once
#include <cmath>
#include <cstdint>

#include "../math/softmax.h"
#include "packs.cuh"
#include "warp.cuh"

namespace rlaif_pl {

constexpr int kSoftmaxThreads = 256;

struct GpuMath {
  template <typename acc_t> static RLAIF_PL_HD acc_t exp_negative(acc_t x) { return std::exp(x); }
};

template <typename acc_t, typename scalar_t>
__device__ __forceinline__ Shaped<acc_t> shaped_at(scalar_t entry, const acc_t *bias, int64_t i,
                                                   const Shape<acc_t> &shape) {
  const acc_t logit = static_cast<acc_t>(entry) + (bias == nullptr ? acc_t(0) : bias[i]);
  return shaped<GpuMath>(logit, shape);
}

/* Add `count` entries of shaped logits to a thread's sums. */
template <int count, typename acc_t>
__device__ __forceinline__ void add_entries(SoftmaxSums<acc_t> &sums, const acc_t (&z)[count]) {
  acc_t largest = sums.max;
#pragma unroll
  for (int k = 0; k < count; ++k)
    largest = z[k] > largest ? z[k] : largest;
  if (largest > sums.max)
    softmax_rescale<GpuMath>(sums, largest);
  const acc_t offset = softmax_offset(largest);
#pragma unroll
  for (int k = 0; k < count; ++k) {
    const acc_t gap = z[k] - offset, weight = std::exp(gap);
    sums.sum += weight;
    sums.moment += weight == acc_t(0) ? acc_t(0) : weight * gap;
  }
}

/* The sums of all threads of the block, in each of them. Waits for all threads. */
template <typename acc_t>
__device__ __forceinline__ SoftmaxSums<acc_t> merge_block(SoftmaxSums<acc_t> mine) {
  __shared__ SoftmaxSums<acc_t> of_warp[kSoftmaxThreads / kWarp];
#pragma unroll
  for (int lane = kWarp / 2; lane > 0; lane /= 2) {
    const SoftmaxSums<acc_t> theirs{__shfl_xor_sync(kAllLanes, mine.max, lane),
                                    __shfl_xor_sync(kAllLanes, mine.sum, lane),
                                    __shfl_xor_sync(kAllLanes, mine.moment, lane)};
    mine = softmax_merge<GpuMath>(mine, theirs);
  }
  __syncthreads(); // the row before may still be read
  if (threadIdx.x % kWarp == 0)
    of_warp[threadIdx.x / kWarp] = mine;
  __syncthreads();
  SoftmaxSums<acc_t> all = of_warp[0];
  for (unsigned warp = 1; warp < kSoftmaxThreads / kWarp; ++warp)
    all = softmax_merge<GpuMath>(all, of_warp[warp]);
  return all;
}

template <typename acc_t, typename scalar_t>
__global__ void __launch_bounds__(kSoftmaxThreads, 4) // without the 4, sm_100 spills registers
    online_softmax_update_kernel(scalar_t *logits, const int64_t *__restrict__ tokens,
                                 const acc_t *__restrict__ bias, acc_t *state, int64_t start,
                                 Shape<acc_t> shape, bool weighted, int64_t N, int64_t B) {
  for (int64_t n = blockIdx.x; n < N; n += gridDim.x) {
    scalar_t *row = logits + n * B;
    acc_t *of_row = state + n * kSoftmaxState;
    const int64_t token = tokens[n] - start;
    if (threadIdx.x == 0 && token >= 0 && token < B)
      of_row[kTaken] = shaped_at(row[token], bias, token, shape).z;
    auto mine = sums_of_nothing<acc_t>();
    visit_packs<false>(row, B, [&](const auto &entries, int64_t at) {
      constexpr int count = sizeof(entries) / sizeof(scalar_t);
      acc_t z[count];
#pragma unroll
      for (int k = 0; k < count; ++k)
        z[k] = shaped_at(entries[k], bias, at + k, shape).z;
      add_entries(mine, z);
    });
    const SoftmaxSums<acc_t> all = merge_block(mine); // all threads have read the row by now
    if (threadIdx.x == 0)
      softmax_update<GpuMath>(of_row, all);
    if (!weighted)
      continue;
    __syncthreads(); // the state is written
    const acc_t offset = softmax_offset(of_row[kMax]);
    visit_packs<true>(row, B, [&](auto &entries, int64_t at) {
      constexpr int count = sizeof(entries) / sizeof(scalar_t);
#pragma unroll
      for (int k = 0; k < count; ++k) {
        const auto one = shaped_at(entries[k], bias, at + k, shape);
        entries[k] = static_cast<scalar_t>(std::exp(one.z - offset) * one.slope);
      }
    });
  }
}

template <typename acc_t, typename scalar_t>
__global__ void __launch_bounds__(kSoftmaxThreads)
    online_softmax_backward_kernel(scalar_t *logits, const int64_t *__restrict__ tokens,
                                   const acc_t *__restrict__ bias, const acc_t *__restrict__ rows,
                                   int64_t start, Shape<acc_t> shape, int64_t N, int64_t B) {
  for (int64_t n = blockIdx.x; n < N; n += gridDim.x) {
    const SlopeRow<acc_t> row = slope_row(rows + n * kSlopeRow);
    const int64_t token = tokens[n] - start;
    visit_packs<true>(logits + n * B, B, [&](auto &entries, int64_t at) {
      constexpr int count = sizeof(entries) / sizeof(scalar_t);
#pragma unroll
      for (int k = 0; k < count; ++k) {
        const auto one = shaped_at(entries[k], bias, at + k, shape);
        acc_t slope = softmax_slope<GpuMath>(one, shape, row);
        if (at + k == token)
          slope += row.grad_logprob * one.slope * shape.inv_temperature;
        entries[k] = static_cast<scalar_t>(slope);
      }
    });
  }
}

} // namespace rlaif_pl
