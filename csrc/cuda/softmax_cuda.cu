/* softmax_cuda.cu: checks and launch of softmax_kernel.cuh. Nothing numeric lives here. */
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "../checks.h"
#include "../launchers.h"
#include "launch.h"
#include "softmax_kernel.cuh"

namespace rlaif_pl {

void online_softmax_update_cuda(Tensor logits, const Tensor &tokens,
                                const std::optional<Tensor> &bias, Tensor state, int64_t start,
                                double inv_temperature, double softcap, bool weighted) {
  check_softmax_update(logits, tokens, bias, state);
  // Without the guard a tensor on cuda:1 would launch on cuda:0.
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const auto t = packed(tokens);
  const std::optional<Tensor> b = packed(bias);
  const int64_t N = logits.size(0), B = logits.size(1);
  if (N == 0) // a grid of zero blocks is a launch error
    return;
  visit_floating("online_softmax_update_", logits.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    const Shape<acc_t> shape{static_cast<acc_t>(inv_temperature), static_cast<acc_t>(softcap)};
    const unsigned blocks = num_blocks(N, 1);
    online_softmax_update_kernel<acc_t, scalar_t>
        <<<blocks, kSoftmaxThreads, 0, current_stream(logits)>>>(
            logits.mutable_data_ptr<scalar_t>(), t.const_data_ptr<int64_t>(),
            b.has_value() ? b->const_data_ptr<acc_t>() : nullptr, state.mutable_data_ptr<acc_t>(),
            start, shape, weighted, N, B);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

void online_softmax_backward_cuda(Tensor logits, const Tensor &tokens,
                                  const std::optional<Tensor> &bias, const Tensor &rows,
                                  int64_t start, double inv_temperature, double softcap) {
  check_softmax_backward(logits, tokens, bias, rows);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const auto t = packed(tokens), r = packed(rows);
  const std::optional<Tensor> b = packed(bias);
  const int64_t N = logits.size(0), B = logits.size(1);
  if (N == 0)
    return;
  visit_floating("online_softmax_backward_", logits.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    const Shape<acc_t> shape{static_cast<acc_t>(inv_temperature), static_cast<acc_t>(softcap)};
    const unsigned blocks = num_blocks(N, 1);
    online_softmax_backward_kernel<acc_t, scalar_t>
        <<<blocks, kSoftmaxThreads, 0, current_stream(logits)>>>(
            logits.mutable_data_ptr<scalar_t>(), t.const_data_ptr<int64_t>(),
            b.has_value() ? b->const_data_ptr<acc_t>() : nullptr, r.const_data_ptr<acc_t>(), start,
            shape, N, B);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

} // namespace rlaif_pl
