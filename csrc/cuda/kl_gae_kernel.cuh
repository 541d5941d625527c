/* kl_gae_kernel.cuh: reward shaping, KL and the advantage scan in one pass on a GPU. No torch
 * header, so nvcc alone compiles it.
 *
 * The scan is that of gae_kernel.cuh, one warp a row; the rewards are made on the way:
 * -beta * (logprob - ref_logprob), and the score at the row's last step.
 *
 * Shapes    logprobs, ref_logprobs, values, advantages, returns: (N, T) contiguous; scores,
 * lengths, bootstrap, kl: (N,); moments: (N, 2). A length outside [0, T] acts as the nearer bound:
 * looking would wait for the device. Grid      any number of blocks of kGaeThreads threads; warps
 * stride over rows. Cost      reads 3NT + 3N elements (values[t + 1] from cache), writes 2NT + 3N;
 * memory bound. Reference rlaif_pl/ops/reference.py::kl_gae; tests/ops/test_kl_gae.py,
 *           tests/ops/test_cuda_emulation.py.
 */
#pragma once
#include "gae_kernel.cuh"

namespace rlaif_pl {

template <typename scalar_t> struct ShapedInputs {
  const scalar_t *logprobs, *ref_logprobs, *values, *scores, *bootstrap;
  const int64_t *lengths;
};

template <typename scalar_t> struct ShapedTargets {
  scalar_t *advantages, *returns, *kl;
  double *moments;
};

template <typename acc_t, typename scalar_t>
__global__ void __launch_bounds__(kGaeThreads)
    kl_gae_kernel(ShapedInputs<scalar_t> in, ShapedTargets<scalar_t> out, int64_t N, int64_t T,
                  acc_t beta, acc_t gamma, acc_t decay) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps_per_block = blockDim.x / kWarp;
  const int64_t num_warps = gridDim.x * warps_per_block;
  for (int64_t n = blockIdx.x * warps_per_block + threadIdx.x / kWarp; n < N; n += num_warps) {
    const int64_t row = n * T;
    const int64_t asked = in.lengths[n];
    const int64_t length = asked < 0 ? 0 : (asked > T ? T : asked);
    for (int64_t t = length + lane; t < T; t += kWarp) {
      out.advantages[row + t] = scalar_t(0.0f);
      out.returns[row + t] = scalar_t(0.0f);
    }
    acc_t carry = 0, kl = 0, sum = 0, squares = 0;
    for (int64_t end = length; end > 0; end -= kWarp) {
      const int64_t t = end - 1 - lane;
      Affine<acc_t> map{acc_t(1), acc_t(0)};
      acc_t value = 0;
      if (t >= 0) {
        const bool is_last = t + 1 == length;
        const acc_t ratio =
            static_cast<acc_t>(in.logprobs[row + t]) - static_cast<acc_t>(in.ref_logprobs[row + t]);
        const acc_t score = is_last ? static_cast<acc_t>(in.scores[n]) : acc_t(0);
        const acc_t next_value =
            static_cast<acc_t>(is_last ? in.bootstrap[n] : in.values[row + t + 1]);
        value = static_cast<acc_t>(in.values[row + t]);
        kl += ratio;
        map = gae_step(score - beta * ratio, value, next_value, gamma, decay);
      }
      const acc_t advantage = scan_from_the_end(map, lane)(carry);
      if (t >= 0) {
        out.advantages[row + t] = static_cast<scalar_t>(advantage);
        out.returns[row + t] = static_cast<scalar_t>(advantage + value);
        sum += advantage;
        squares += advantage * advantage;
      }
      carry = __shfl_sync(kAllLanes, advantage, kWarp - 1);
    }
    kl = warp_sum(kl), sum = warp_sum(sum), squares = warp_sum(squares);
    if (lane == 0) {
      out.kl[n] = static_cast<scalar_t>(kl);
      out.moments[2 * n] = static_cast<double>(sum);
      out.moments[2 * n + 1] = static_cast<double>(squares);
    }
  }
}

} // namespace rlaif_pl
