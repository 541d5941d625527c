/* pairwise_ce_kernel.cuh: the preference loss on a GPU. No torch header, so nvcc alone compiles it.
 *
 * Shapes    every array (N,) contiguous; weight may be null and then stands for ones.
 * Grid      any number of blocks of kPairwiseThreads threads, which stride over pairs.
 * Cost      reads 3N or 4N elements, writes 2N; memory bound.
 * Reference rlaif_pl/ops/reference.py::pairwise_ce_fwd; tests/ops/test_pairwise.py,
 *           tests/ops/test_cuda_emulation.py.
 */
#pragma once
#include <cstdint>

#include "../math/pairwise_ce.h"

namespace rlaif_pl {

constexpr int kPairwiseThreads = 256;

template <typename acc_t, typename scalar_t>
__global__ void __launch_bounds__(kPairwiseThreads)
    pairwise_ce_kernel(const scalar_t *__restrict__ first, const scalar_t *__restrict__ second,
                       const acc_t *__restrict__ target, const acc_t *__restrict__ weight,
                       scalar_t *__restrict__ loss, scalar_t *__restrict__ dmargin, int64_t N) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < N;
       i += stride) {
    const acc_t margin = static_cast<acc_t>(first[i]) - static_cast<acc_t>(second[i]);
    const auto pair = pairwise_ce(margin, target[i], weight == nullptr ? acc_t(1) : weight[i]);
    loss[i] = static_cast<scalar_t>(pair.loss);
    dmargin[i] = static_cast<scalar_t>(pair.slope);
  }
}

} // namespace rlaif_pl
