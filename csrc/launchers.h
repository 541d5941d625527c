/* launchers.h: the kernels that ops.cpp binds. Shapes and meanings: rlaif_pl/ops/reference.py. */
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

namespace rlaif_pl {

using torch::stable::Tensor;
using TensorPair = std::tuple<Tensor, Tensor>;
using PairwiseOutputs = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using ShapedOutputs = std::tuple<Tensor, Tensor, Tensor, Tensor>;

#define RLAIF_PL_DECLARE(device)                                                                   \
  TensorPair gae_##device(const Tensor &rewards, const Tensor &values, const Tensor &lengths,      \
                          const Tensor &bootstrap, double gamma, double lam);                      \
  ShapedOutputs kl_gae_##device(const Tensor &logprobs, const Tensor &ref_logprobs,                \
                                const Tensor &values, const Tensor &scores, const Tensor &lengths, \
                                const Tensor &bootstrap, double beta, double gamma, double lam);   \
  PairwiseOutputs pairwise_ce_fwd_##device(const Tensor &first, const Tensor &second,              \
                                           const Tensor &target,                                   \
                                           const std::optional<Tensor> &weight, bool each);        \
  TensorPair pairwise_ce_bwd_##device(const Tensor &dmargin, const Tensor &grad, double scale);    \
  void online_softmax_update_##device(                                                             \
      Tensor logits, const Tensor &tokens, const std::optional<Tensor> &bias, Tensor state,        \
      int64_t start, double inv_temperature, double softcap, bool weighted);                       \
  void online_softmax_backward_##device(Tensor logits, const Tensor &tokens,                       \
                                        const std::optional<Tensor> &bias, const Tensor &rows,     \
                                        int64_t start, double inv_temperature, double softcap);

RLAIF_PL_DECLARE(cpu)
RLAIF_PL_DECLARE(cuda)

#undef RLAIF_PL_DECLARE

} // namespace rlaif_pl
