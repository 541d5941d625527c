/* pairwise_ce_kernel.cuh: the preference loss on a GPU. No torch header, so nvcc alone compiles it.
 *
 * Shapes    every array of pairs (N,) contiguous; weight may be null and then stands for ones;
 *           loss may be null and is then not written.
 *           sums: (kPairwiseSums, number of warps), one column a warp; the launcher adds them up.
 * Grid      any number of blocks of kPairwiseThreads threads, which stride over pairs.
 * Cost      reads 3N or 4N elements, writes 2N; memory bound.
 * Reference rlaif_pl/ops/reference.py::pairwise_ce_fwd; tests/ops/test_pairwise.py,
 *           tests/ops/test_cuda_emulation.py.
 */
#pragma once
#include <cstdint>

#include "../math/pairwise_ce.h"
#include "warp.cuh"

namespace rlaif_pl {

constexpr int kPairwiseThreads = 256;

template <typename acc_t, typename scalar_t>
__global__ void __launch_bounds__(kPairwiseThreads, 2)
    pairwise_ce_kernel(const scalar_t *__restrict__ first, const scalar_t *__restrict__ second,
                       const acc_t *__restrict__ target, const acc_t *__restrict__ weight,
                       scalar_t *__restrict__ loss, scalar_t *__restrict__ dmargin,
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
    mine[kSumAgree] += w * pairwise_agrees(margin, target[i]);
    mine[kSumMargin] += w == acc_t(0) ? acc_t(0) : w * margin;
  }
#pragma unroll
  for (int k = 0; k < kPairwiseSums; ++k) {
    const double sum = warp_sum(mine[k]);
    if (threadIdx.x % kWarp == 0)
      sums[k * (stride / kWarp) + thread / kWarp] = sum;
  }
}

} // namespace rlaif_pl
