/* pairwise_ce_kernel.cuh: the preference loss on a GPU. No torch header, so nvcc alone compiles it.
 *
 * Up to kPairsPerBlock pairs are one block, which writes the totals itself: one launch. More pairs
 * are more blocks, whose sums a second kernel adds up, always in the same order.
 *
 * Shapes    every array of pairs (N,) contiguous; weight may be null and then stands for ones;
 *           loss may be null and is then not written.
 *           partial: (blocks, kPairwiseSums), not used by a single block; total: (); sums: (3,).
 * Grid      forward and backward any number of blocks of kPairwiseThreads threads, which stride
 * over pairs; pairwise_ce_total_kernel one block. Cost      forward reads 3N or 4N elements, writes
 * N or 2N; backward reads N or 2N, writes 2N; memory bound. Reference
 * rlaif_pl/ops/reference.py::pairwise_ce_fwd, pairwise_ce_bwd; tests/ops/test_pairwise.py,
 *           tests/ops/test_cuda_emulation.py.
 */
#pragma once
#include <cmath>
#include <cstdint>

#include "../math/pairwise_ce.h"
#include "warp.cuh"

namespace rlaif_pl {

constexpr int kPairwiseThreads = 512;
constexpr int64_t kPairsPerBlock = 4096;

/* Totals over the threads of a block: the k-th in thread k, for k < kPairwiseSums. */
__device__ __forceinline__ double block_totals(const double (&mine)[kPairwiseSums]) {
  __shared__ double of_warp[kPairwiseThreads / kWarp][kPairwiseSums];
#pragma unroll
  for (int k = 0; k < kPairwiseSums; ++k) {
    const double sum = warp_sum(mine[k]);
    if (threadIdx.x % kWarp == 0)
      of_warp[threadIdx.x / kWarp][k] = sum;
  }
  __syncthreads();
  double total = 0;
  if (threadIdx.x < kPairwiseSums)
    for (int warp = 0; warp < kPairwiseThreads / kWarp; ++warp)
      total += of_warp[warp][threadIdx.x];
  return total;
}

/* The loss goes to `total`, what follows it in PairwiseSum to `sums`. */
template <typename acc_t>
__device__ __forceinline__ void write_total(double sum, acc_t *total, double *sums) {
  if (threadIdx.x == kSumLoss)
    *total = static_cast<acc_t>(sum);
  else if (threadIdx.x < kPairwiseSums)
    sums[threadIdx.x - 1] = sum;
}

template <typename acc_t, typename scalar_t>
__global__ void __launch_bounds__(kPairwiseThreads, 2) // without the 2, sm_80 spills registers
    pairwise_ce_kernel(const scalar_t *__restrict__ first, const scalar_t *__restrict__ second,
                       const acc_t *__restrict__ target, const acc_t *__restrict__ weight,
                       scalar_t *__restrict__ loss, scalar_t *__restrict__ dmargin,
                       double *__restrict__ partial, acc_t *__restrict__ total,
                       double *__restrict__ sums, int64_t N) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  double mine[kPairwiseSums] = {0, 0, 0, 0};
  for (int64_t i = thread; i < N; i += stride) {
    const acc_t margin = static_cast<acc_t>(first[i]) - static_cast<acc_t>(second[i]);
    const acc_t w = weight == nullptr ? acc_t(1) : weight[i];
    const acc_t small = std::exp(-std::fabs(margin));
    const auto pair = pairwise_ce(margin, target[i], w, small, std::log1p(small));
    if (loss != nullptr)
      loss[i] = static_cast<scalar_t>(pair.loss);
    dmargin[i] = static_cast<scalar_t>(pair.slope);
    mine[kSumLoss] += pair.loss;
    mine[kSumWeight] += w;
    mine[kSumCorrect] += w * pairwise_correct(margin, target[i]);
    mine[kSumMargin] += w == acc_t(0) ? acc_t(0) : w * margin;
  }
  const double sum = block_totals(mine);
  if (gridDim.x == 1)
    write_total(sum, total, sums);
  else if (threadIdx.x < kPairwiseSums)
    partial[static_cast<int64_t>(blockIdx.x) * kPairwiseSums + threadIdx.x] = sum;
}

template <typename acc_t>
__global__ void __launch_bounds__(kPairwiseThreads)
    pairwise_ce_total_kernel(const double *__restrict__ partial, int64_t num_blocks,
                             acc_t *__restrict__ total, double *__restrict__ sums) {
  double mine[kPairwiseSums] = {0, 0, 0, 0};
  for (int64_t b = threadIdx.x; b < num_blocks; b += blockDim.x)
#pragma unroll
    for (int k = 0; k < kPairwiseSums; ++k)
      mine[k] += partial[b * kPairwiseSums + k];
  write_total(block_totals(mine), total, sums);
}

/* first = scale * grad * dmargin, second = -first; one grad stands for all if `grad_stride` is 0.
 */
template <typename acc_t, typename scalar_t>
__global__ void __launch_bounds__(kPairwiseThreads)
    pairwise_ce_backward_kernel(const scalar_t *__restrict__ dmargin,
                                const scalar_t *__restrict__ grad, int64_t grad_stride, acc_t scale,
                                scalar_t *__restrict__ first, scalar_t *__restrict__ second,
                                int64_t N) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < N;
       i += stride) {
    const acc_t slope =
        scale * static_cast<acc_t>(grad[i * grad_stride]) * static_cast<acc_t>(dmargin[i]);
    first[i] = static_cast<scalar_t>(slope);
    second[i] = static_cast<scalar_t>(-slope);
  }
}

} // namespace rlaif_pl
