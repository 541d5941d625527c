/* pairwise_ce_cpu.cpp: threads over pairs; each runs math/pairwise_ce.h.
 *
 * Shapes    every tensor (N,) contiguous.
 * Cost      one pass: reads 3N or 4N elements, writes 2N; an exponential and a logarithm a pair.
 */
#include <torch/csrc/stable/ops.h>

#include "../checks.h"
#include "../launchers.h"
#include "../math/pairwise_ce.h"

namespace rlaif_pl {
namespace {

constexpr int64_t kPairsPerTask = 4096;

} // namespace

TensorPair pairwise_ce_fwd_cpu(const Tensor &first, const Tensor &second, const Tensor &target,
                               const std::optional<Tensor> &weight) {
  check_pairwise_ce(first, second, target, weight);
  const auto f = torch::stable::contiguous(first), s = torch::stable::contiguous(second),
             p = torch::stable::contiguous(target);
  const std::optional<Tensor> w =
      weight.has_value() ? std::make_optional(torch::stable::contiguous(*weight)) : std::nullopt;
  auto loss = torch::stable::new_empty(f, f.sizes());
  auto dmargin = torch::stable::new_empty(f, f.sizes());
  if (f.numel() == 0)
    return {loss, dmargin};
  visit_floating("pairwise_ce_fwd", f.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    const scalar_t *fp = f.const_data_ptr<scalar_t>(), *sp = s.const_data_ptr<scalar_t>();
    const acc_t *pp = p.const_data_ptr<acc_t>();
    const acc_t *wp = w.has_value() ? w->const_data_ptr<acc_t>() : nullptr;
    scalar_t *lp = loss.mutable_data_ptr<scalar_t>(), *dp = dmargin.mutable_data_ptr<scalar_t>();
    torch::stable::parallel_for(0, f.numel(), kPairsPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const acc_t margin = static_cast<acc_t>(fp[i]) - static_cast<acc_t>(sp[i]);
        const auto pair = pairwise_ce(margin, pp[i], wp == nullptr ? acc_t(1) : wp[i]);
        lp[i] = static_cast<scalar_t>(pair.loss);
        dp[i] = static_cast<scalar_t>(pair.slope);
      }
    });
  });
  return {loss, dmargin};
}

} // namespace rlaif_pl
