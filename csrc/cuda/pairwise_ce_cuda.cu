/* pairwise_ce_cuda.cu: checks, allocation and launch of pairwise_ce_kernel.cuh. */
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "../checks.h"
#include "../launchers.h"
#include "launch.h"
#include "pairwise_ce_kernel.cuh"

namespace rlaif_pl {

TensorPair pairwise_ce_fwd_cuda(const Tensor &first, const Tensor &second, const Tensor &target,
                                const std::optional<Tensor> &weight) {
  check_pairwise_ce(first, second, target, weight);
  // Without the guard a tensor on cuda:1 would launch on cuda:0.
  const torch::stable::accelerator::DeviceGuard guard(first.get_device_index());
  const auto f = torch::stable::contiguous(first), s = torch::stable::contiguous(second),
             p = torch::stable::contiguous(target);
  const std::optional<Tensor> w =
      weight.has_value() ? std::make_optional(torch::stable::contiguous(*weight)) : std::nullopt;
  auto loss = torch::stable::new_empty(f, f.sizes());
  auto dmargin = torch::stable::new_empty(f, f.sizes());
  if (f.numel() == 0) // a grid of zero blocks is a launch error
    return {loss, dmargin};
  visit_floating("pairwise_ce_fwd", f.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    const unsigned blocks = num_blocks(f.numel(), kPairwiseThreads);
    pairwise_ce_kernel<acc_t, scalar_t><<<blocks, kPairwiseThreads, 0, current_stream(f)>>>(
        f.const_data_ptr<scalar_t>(), s.const_data_ptr<scalar_t>(), p.const_data_ptr<acc_t>(),
        w.has_value() ? w->const_data_ptr<acc_t>() : nullptr, loss.mutable_data_ptr<scalar_t>(),
        dmargin.mutable_data_ptr<scalar_t>(), f.numel());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {loss, dmargin};
}

} // namespace rlaif_pl
