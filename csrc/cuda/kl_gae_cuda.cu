/* kl_gae_cuda.cu: checks, allocation and launch of kl_gae_kernel.cuh. */
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "../checks.h"
#include "../launchers.h"
#include "../outputs.h"
#include "kl_gae_kernel.cuh"
#include "launch.h"

namespace rlaif_pl {

ShapedOutputs kl_gae_cuda(const Tensor &logprobs, const Tensor &ref_logprobs, const Tensor &values,
                          const Tensor &scores, const Tensor &lengths, const Tensor &bootstrap,
                          double beta, double gamma, double lam) {
  check_kl_gae(logprobs, ref_logprobs, values, scores, lengths, bootstrap);
  // Without the guard a tensor on cuda:1 would launch on cuda:0.
  const torch::stable::accelerator::DeviceGuard guard(logprobs.get_device_index());
  const auto p = packed(logprobs), q = packed(ref_logprobs), v = packed(values), s = packed(scores),
             l = packed(lengths), b = packed(bootstrap);
  const int64_t N = p.size(0), T = p.size(1);
  auto advantages = empty(p, p.sizes());
  auto returns = empty(p, p.sizes());
  auto kl = empty(p, {N});
  auto moments = empty(p, {N, 2}, ScalarType::Double);
  if (N == 0) // a grid of zero blocks is a launch error
    return {advantages, returns, kl, moments};
  visit_floating("kl_gae", p.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    const ShapedInputs<scalar_t> in{p.const_data_ptr<scalar_t>(), q.const_data_ptr<scalar_t>(),
                                    v.const_data_ptr<scalar_t>(), s.const_data_ptr<scalar_t>(),
                                    b.const_data_ptr<scalar_t>(), l.const_data_ptr<int64_t>()};
    const ShapedTargets<scalar_t> out{
        advantages.mutable_data_ptr<scalar_t>(), returns.mutable_data_ptr<scalar_t>(),
        kl.mutable_data_ptr<scalar_t>(), moments.mutable_data_ptr<double>()};
    const unsigned blocks = num_blocks(N, kGaeThreads / kWarp);
    kl_gae_kernel<acc_t, scalar_t><<<blocks, kGaeThreads, 0, current_stream(p)>>>(
        in, out, N, T, static_cast<acc_t>(beta), static_cast<acc_t>(gamma),
        static_cast<acc_t>(gamma * lam));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {advantages, returns, kl, moments};
}

} // namespace rlaif_pl
