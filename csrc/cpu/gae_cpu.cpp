/* gae_cpu.cpp: threads over rows; each row runs the recurrence of math/gae.h from its end.
 *
 * Shapes    rewards, values, outputs: (N, T) contiguous; lengths, bootstrap: (N,).
 * Cost      one pass: reads 2NT + 2N elements, writes 2NT.
 */
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../checks.h"
#include "../launchers.h"
#include "../math/gae.h"

namespace rlaif_pl {
namespace {

constexpr int64_t kStepsPerTask = 1 << 15; // below this a thread costs more than it saves

template <typename scalar_t> struct Rows {
  const scalar_t *rewards, *values, *bootstrap;
  const int64_t *lengths;
  scalar_t *advantages, *returns;
  int64_t T;
};

template <typename scalar_t>
void gae_row(const Rows<scalar_t> &rows, int64_t n, accumulator_t<scalar_t> gamma,
             accumulator_t<scalar_t> decay) {
  using acc_t = accumulator_t<scalar_t>;
  const int64_t start = n * rows.T, length = rows.lengths[n];
  scalar_t *advantages = rows.advantages + start, *returns = rows.returns + start;
  acc_t carry = 0, next_value = static_cast<acc_t>(rows.bootstrap[n]);
  for (int64_t t = length - 1; t >= 0; --t) {
    const acc_t reward = static_cast<acc_t>(rows.rewards[start + t]);
    const acc_t value = static_cast<acc_t>(rows.values[start + t]);
    carry = gae_step(reward, value, next_value, gamma, decay)(carry);
    advantages[t] = static_cast<scalar_t>(carry);
    returns[t] = static_cast<scalar_t>(carry + value);
    next_value = value;
  }
  std::fill(advantages + length, advantages + rows.T, scalar_t(0.0f));
  std::fill(returns + length, returns + rows.T, scalar_t(0.0f));
}

} // namespace

TensorPair gae_cpu(const Tensor &rewards, const Tensor &values, const Tensor &lengths,
                   const Tensor &bootstrap, double gamma, double lam) {
  check_gae(rewards, values, lengths, bootstrap);
  const auto r = torch::stable::contiguous(rewards), v = torch::stable::contiguous(values),
             l = torch::stable::contiguous(lengths), b = torch::stable::contiguous(bootstrap);
  auto advantages = torch::stable::new_empty(r, r.sizes());
  auto returns = torch::stable::new_empty(r, r.sizes());
  if (r.numel() == 0)
    return {advantages, returns};
  const int64_t N = r.size(0), T = r.size(1);
  const int64_t *length = l.const_data_ptr<int64_t>();
  STD_TORCH_CHECK(std::all_of(length, length + N, [T](int64_t x) { return x >= 0 && x <= T; }),
                  "gae: lengths must lie in [0, ", T, "]");
  visit_floating("gae", r.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    const Rows<scalar_t> rows{
        r.const_data_ptr<scalar_t>(), v.const_data_ptr<scalar_t>(),
        b.const_data_ptr<scalar_t>(), length,
        advantages.mutable_data_ptr<scalar_t>(), returns.mutable_data_ptr<scalar_t>(), T};
    const acc_t decay = static_cast<acc_t>(gamma * lam);
    const int64_t grain = std::max<int64_t>(1, kStepsPerTask / T);
    torch::stable::parallel_for(0, N, grain, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        gae_row(rows, n, static_cast<acc_t>(gamma), decay);
    });
  });
  return {advantages, returns};
}

} // namespace rlaif_pl
