/* pairwise_ce_cuda.cu: checks, allocation and launches of pairwise_ce_kernel.cuh. */
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../checks.h"
#include "../launchers.h"
#include "../outputs.h"
#include "launch.h"
#include "pairwise_ce_kernel.cuh"

namespace rlaif_pl {

PairwiseOutputs pairwise_ce_fwd_cuda(const Tensor &first, const Tensor &second,
                                     const Tensor &target, const std::optional<Tensor> &weight,
                                     bool each) {
  check_pairwise_ce(first, second, target, weight);
  // Without the guard a tensor on cuda:1 would launch on cuda:0.
  const torch::stable::accelerator::DeviceGuard guard(first.get_device_index());
  const auto f = packed(first), s = packed(second), p = packed(target);
  const std::optional<Tensor> w = packed(weight);
  auto loss = empty(f, {each ? f.numel() : 0});
  auto dmargin = empty(f, f.sizes());
  auto total = empty(p, {});
  auto sums = empty(p, {kPairwiseSums - 1}, ScalarType::Double);
  const unsigned blocks = std::max(1u, num_blocks(f.numel(), kPairsPerBlock)); // no pairs: zeros
  // Added up in one order, where atomics would add in any.
  auto partial = empty(p, {blocks > 1 ? blocks : 0, kPairwiseSums}, ScalarType::Double);
  visit_floating("pairwise_ce_fwd", f.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    pairwise_ce_kernel<acc_t, scalar_t><<<blocks, kPairwiseThreads, 0, current_stream(f)>>>(
        f.const_data_ptr<scalar_t>(), s.const_data_ptr<scalar_t>(), p.const_data_ptr<acc_t>(),
        w.has_value() ? w->const_data_ptr<acc_t>() : nullptr,
        each ? loss.mutable_data_ptr<scalar_t>() : nullptr, dmargin.mutable_data_ptr<scalar_t>(),
        partial.mutable_data_ptr<double>(), total.mutable_data_ptr<acc_t>(),
        sums.mutable_data_ptr<double>(), f.numel());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    if (blocks == 1)
      return;
    pairwise_ce_total_kernel<acc_t><<<1, kPairwiseThreads, 0, current_stream(f)>>>(
        partial.const_data_ptr<double>(), blocks, total.mutable_data_ptr<acc_t>(),
        sums.mutable_data_ptr<double>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {loss, dmargin, total, sums};
}

TensorPair pairwise_ce_bwd_cuda(const Tensor &dmargin, const Tensor &grad, double scale) {
  check_pairwise_ce_bwd(dmargin, grad);
  const torch::stable::accelerator::DeviceGuard guard(dmargin.get_device_index());
  auto first = empty(dmargin, dmargin.sizes());
  auto second = empty(dmargin, dmargin.sizes());
  const int64_t N = dmargin.numel(), stride = grad.dim() == 0 ? 0 : grad.stride(0);
  if (N == 0) // a grid of zero blocks is a launch error
    return {first, second};
  visit_floating("pairwise_ce_bwd", dmargin.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    const unsigned blocks = num_blocks(N, kPairwiseThreads);
    pairwise_ce_backward_kernel<acc_t, scalar_t>
        <<<blocks, kPairwiseThreads, 0, current_stream(dmargin)>>>(
            dmargin.const_data_ptr<scalar_t>(), grad.const_data_ptr<scalar_t>(), stride,
            static_cast<acc_t>(scale), first.mutable_data_ptr<scalar_t>(),
            second.mutable_data_ptr<scalar_t>(), N);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {first, second};
}

} // namespace rlaif_pl
