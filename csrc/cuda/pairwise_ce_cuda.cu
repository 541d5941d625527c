/* pairwise_ce_cuda.cu: checks, allocation and launch of pairwise_ce_kernel.cuh. */
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>

#include "../checks.h"
#include "../launchers.h"
#include "../outputs.h"
#include "launch.h"
#include "pairwise_ce_kernel.cuh"

namespace rlaif_pl {

constexpr int64_t kPairsPerThread = 4;

PairwiseOutputs pairwise_ce_fwd_cuda(const Tensor &first, const Tensor &second,
                                     const Tensor &target,
                                     const std::optional<Tensor> &weight, bool each) {
  check_pairwise_ce(first, second, target, weight);
  // Without the guard a tensor on cuda:1 would launch on cuda:0.
  const torch::stable::accelerator::DeviceGuard guard(first.get_device_index());
  const auto f = packed(first), s = packed(second), p = packed(target);
  const std::optional<Tensor> w = packed(weight);
  auto loss = empty(f, {each ? f.numel() : 0});
  auto dmargin = empty(f, f.sizes());
  // One column a warp: added up by torch, in one order, where atomics would add in any.
  const unsigned blocks = std::max(1u, num_blocks(f.numel(), kPairwiseThreads * kPairsPerThread));
  auto partial = empty(
      p, {kPairwiseSums, static_cast<int64_t>(blocks) * (kPairwiseThreads / kWarp)},
      ScalarType::Double);
  visit_floating("pairwise_ce_fwd", f.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    pairwise_ce_kernel<acc_t, scalar_t><<<blocks, kPairwiseThreads, 0, current_stream(f)>>>(
        f.const_data_ptr<scalar_t>(), s.const_data_ptr<scalar_t>(), p.const_data_ptr<acc_t>(),
        w.has_value() ? w->const_data_ptr<acc_t>() : nullptr,
        each ? loss.mutable_data_ptr<scalar_t>() : nullptr, dmargin.mutable_data_ptr<scalar_t>(), partial.mutable_data_ptr<double>(), f.numel());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  const std::array<int64_t, 1> warps{1};
  const auto all = torch::stable::sum(partial, warps);
  const auto total = torch::stable::to(torch::stable::select(all, 0, kSumLoss), p.scalar_type());
  const auto rest = torch::stable::narrow(const_cast<Tensor &>(all), 0, 1, kPairwiseSums - 1);
  return {loss, dmargin, torch::stable::clone(total), torch::stable::clone(rest)};
}

} // namespace rlaif_pl
