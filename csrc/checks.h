/* checks.h: what must hold before a kernel may follow pointers.
 *
 * People see the messages of the Python wrappers (rlaif_pl/ops). These checks only keep a direct
 * call of torch.ops from reading outside its tensors, so they are few and terse.
 */
#pragma once
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <type_traits>

namespace rlaif_pl {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

/* The type that arithmetic on scalar_t runs in. */
template <typename scalar_t>
using accumulator_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

inline ScalarType accumulator_type(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_tensor(const char *name, const Tensor &tensor, ScalarType dtype,
                         const Tensor &like) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " has the wrong dtype");
  STD_TORCH_CHECK(tensor.device() == like.device(), name, " is on another device");
}

/* rewards, values: (N, T) of one floating dtype; bootstrap: (N,) of it; lengths: (N,) int64. */
inline void check_gae(const Tensor &rewards, const Tensor &values, const Tensor &lengths,
                      const Tensor &bootstrap) {
  STD_TORCH_CHECK(rewards.dim() == 2 && values.dim() == 2 && lengths.dim() == 1 &&
                      bootstrap.dim() == 1,
                  "gae: rewards and values must be 2-D, lengths and bootstrap 1-D");
  const int64_t N = rewards.size(0), T = rewards.size(1);
  STD_TORCH_CHECK(values.size(0) == N && values.size(1) == T && lengths.size(0) == N &&
                      bootstrap.size(0) == N,
                  "gae: rewards is (", N, ", ", T, "); another tensor does not fit it");
  check_tensor("gae: values", values, rewards.scalar_type(), rewards);
  check_tensor("gae: bootstrap", bootstrap, rewards.scalar_type(), rewards);
  check_tensor("gae: lengths", lengths, ScalarType::Long, rewards);
}

/* All (N,); scores of one floating dtype, target and weight in its accumulator dtype. */
inline void check_pairwise_ce(const Tensor &first, const Tensor &second, const Tensor &target,
                              const std::optional<Tensor> &weight) {
  const auto is_fit = [&](const Tensor &x) { return x.dim() == 1 && x.size(0) == first.numel(); };
  STD_TORCH_CHECK(is_fit(first) && is_fit(second) && is_fit(target) &&
                      (!weight.has_value() || is_fit(*weight)),
                  "pairwise_ce_fwd: every tensor must be 1-D of one length");
  const auto label_type = accumulator_type(first.scalar_type());
  check_tensor("pairwise_ce_fwd: second", second, first.scalar_type(), first);
  check_tensor("pairwise_ce_fwd: target", target, label_type, first);
  if (weight.has_value())
    check_tensor("pairwise_ce_fwd: weight", *weight, label_type, first);
}

/* dmargin: (N,) contiguous; grad: (N,) or () of its dtype. */
inline void check_pairwise_ce_bwd(const Tensor &dmargin, const Tensor &grad) {
  STD_TORCH_CHECK(dmargin.dim() == 1 && dmargin.is_contiguous(),
                  "pairwise_ce_bwd: dmargin must be 1-D and contiguous");
  STD_TORCH_CHECK(grad.dim() == 0 || (grad.dim() == 1 && grad.size(0) == dmargin.numel()),
                  "pairwise_ce_bwd: grad must be () or fit dmargin");
  check_tensor("pairwise_ce_bwd: grad", grad, dmargin.scalar_type(), dmargin);
}

/* logprobs, ref_logprobs, values: (N, T) of one floating dtype; scores, bootstrap: (N,) of it. */
inline void check_kl_gae(const Tensor &logprobs, const Tensor &ref_logprobs, const Tensor &values,
                         const Tensor &scores, const Tensor &lengths, const Tensor &bootstrap) {
  check_gae(logprobs, values, lengths, bootstrap);
  check_gae(logprobs, ref_logprobs, lengths, scores);
}

inline void check_logits(const Tensor &logits, const Tensor &tokens,
                         const std::optional<Tensor> &bias) {
  STD_TORCH_CHECK(logits.dim() == 2 && logits.is_contiguous(),
                  "softmax: logits must be 2-D and contiguous");
  STD_TORCH_CHECK(tokens.dim() == 1 && tokens.size(0) == logits.size(0),
                  "softmax: tokens must be 1-D, one a row of logits");
  check_tensor("softmax: tokens", tokens, ScalarType::Long, logits);
  if (bias.has_value()) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == logits.size(1),
                    "softmax: bias must be 1-D, one a column of logits");
    check_tensor("softmax: bias", *bias, accumulator_type(logits.scalar_type()), logits);
  }
}

/* state: (N, 5) contiguous in the accumulator dtype. */
inline void check_softmax_update(const Tensor &logits, const Tensor &tokens,
                                 const std::optional<Tensor> &bias, const Tensor &state) {
  check_logits(logits, tokens, bias);
  STD_TORCH_CHECK(state.dim() == 2 && state.size(0) == logits.size(0) && state.size(1) == 5 &&
                      state.is_contiguous(),
                  "softmax: state must be (N, 5) and contiguous");
  check_tensor("softmax: state", state, accumulator_type(logits.scalar_type()), logits);
}

/* rows: (N, 4) in the accumulator dtype. */
inline void check_softmax_backward(const Tensor &logits, const Tensor &tokens,
                                   const std::optional<Tensor> &bias, const Tensor &rows) {
  check_logits(logits, tokens, bias);
  STD_TORCH_CHECK(rows.dim() == 2 && rows.size(0) == logits.size(0) && rows.size(1) == 4,
                  "softmax: rows must be (N, 4)");
  check_tensor("softmax: rows", rows, accumulator_type(logits.scalar_type()), logits);
}

/* The tensor itself where it is contiguous, which saves a trip through the dispatcher. */
inline Tensor packed(const Tensor &tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline std::optional<Tensor> packed(const std::optional<Tensor> &tensor) {
  return tensor.has_value() ? std::make_optional(packed(*tensor)) : std::nullopt;
}

/* Call visit(scalar_t{}) for the C++ type of a floating dtype. */
template <typename Visitor>
void visit_floating(const char *op, ScalarType dtype, const Visitor &visit) {
  switch (dtype) {
  case ScalarType::Float:
    return visit(float{});
  case ScalarType::Double:
    return visit(double{});
  case ScalarType::Half:
    return visit(c10::Half{});
  case ScalarType::BFloat16:
    return visit(c10::BFloat16{});
  default:
    STD_TORCH_CHECK(false, op, ": unsupported dtype ", torch::headeronly::toString(dtype));
  }
}

} // namespace rlaif_pl
