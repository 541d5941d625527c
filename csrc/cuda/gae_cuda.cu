/* gae_cuda.cu: checks, allocation and launch of gae_kernel.cuh. Nothing numeric lives here. */
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "../checks.h"
#include "../launchers.h"
#include "../outputs.h"
#include "gae_kernel.cuh"
#include "launch.h"

namespace rlaif_pl {

TensorPair gae_cuda(const Tensor &rewards, const Tensor &values, const Tensor &lengths,
                    const Tensor &bootstrap, double gamma, double lam) {
  check_gae(rewards, values, lengths, bootstrap);
  // Without the guard a tensor on cuda:1 would launch on cuda:0.
  const torch::stable::accelerator::DeviceGuard guard(rewards.get_device_index());
  const auto r = packed(rewards), v = packed(values), l = packed(lengths), b = packed(bootstrap);
  auto advantages = empty(r, r.sizes());
  auto returns = empty(r, r.sizes());
  if (r.numel() == 0) // a grid of zero blocks is a launch error
    return {advantages, returns};
  const int64_t N = r.size(0), T = r.size(1);
  visit_floating("gae", r.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    const unsigned blocks = num_blocks(N, kGaeThreads / kWarp);
    gae_kernel<acc_t, scalar_t><<<blocks, kGaeThreads, 0, current_stream(r)>>>(
        r.const_data_ptr<scalar_t>(), v.const_data_ptr<scalar_t>(), l.const_data_ptr<int64_t>(),
        b.const_data_ptr<scalar_t>(), advantages.mutable_data_ptr<scalar_t>(),
        returns.mutable_data_ptr<scalar_t>(), N, T, static_cast<acc_t>(gamma),
        static_cast<acc_t>(gamma * lam));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {advantages, returns};
}

} // namespace rlaif_pl
