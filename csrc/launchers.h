/* launchers.h: the kernels that ops.cpp binds. Shapes and meanings: rlaif_pl/ops/reference.py. */
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

namespace rlaif_pl {

using torch::stable::Tensor;
using TensorPair = std::tuple<Tensor, Tensor>;

TensorPair gae_cpu(const Tensor &rewards, const Tensor &values, const Tensor &lengths,
                   const Tensor &bootstrap, double gamma, double lam);
TensorPair gae_cuda(const Tensor &rewards, const Tensor &values, const Tensor &lengths,
                    const Tensor &bootstrap, double gamma, double lam);

TensorPair pairwise_ce_fwd_cpu(const Tensor &first, const Tensor &second, const Tensor &target,
                               const std::optional<Tensor> &weight);
TensorPair pairwise_ce_fwd_cuda(const Tensor &first, const Tensor &second, const Tensor &target,
                                const std::optional<Tensor> &weight);

} // namespace rlaif_pl
