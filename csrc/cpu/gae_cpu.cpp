/* gae_cpu.cpp: threads over rows, blocks of gae_block.h along a row. Serves gae and kl_gae.
 *
 * Shapes    rewards, logprobs, ref_logprobs, values, advantages, returns: (N, T) contiguous;
 *           scores, lengths, bootstrap, kl: (N,); moments: (N, 2).
 * Cost      one pass: gae reads 2NT and writes 2NT elements, kl_gae reads 3NT and writes 2NT.
 */
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../checks.h"
#include "../launchers.h"
#include "../outputs.h"
#include "gae_block.h"

namespace rlaif_pl {

constexpr int64_t kStepsPerTask = 1 << 15; // below this a thread costs more than it saves

RLAIF_PL_CLONES RowSums<float> run_block(const Block<float> &block, const Coefficients<float> &by,
                                         int64_t n) {
  return any_block(block, by, n);
}
inline RowSums<double> run_block(const Block<double> &block, const Coefficients<double> &by,
                                 int64_t n) {
  return any_block(block, by, n);
}

template <typename scalar_t> struct Rows {
  const scalar_t *rewards, *reference, *values, *scores, *bootstrap; // reference, scores: or null
  const int64_t *lengths;
  scalar_t *advantages, *returns, *kl; // kl and moments go with reference
  double *moments;
  int64_t N, T;
};

template <typename scalar_t>
void run_row(const Rows<scalar_t> &rows, int64_t n,
             const Coefficients<accumulator_t<scalar_t>> &by) {
  using acc_t = accumulator_t<scalar_t>;
  constexpr bool is_narrow = !std::is_same_v<scalar_t, acc_t>;
  acc_t room[5][is_narrow ? kSteps : 1];
  const int64_t start = n * rows.T, length = rows.lengths[n];
  scalar_t *advantages = rows.advantages + start, *returns = rows.returns + start;
  Block<acc_t> block{};
  block.next_value = static_cast<acc_t>(rows.bootstrap[n]);
  block.score = rows.scores == nullptr ? acc_t(0) : static_cast<acc_t>(rows.scores[n]);
  double kl = 0, sum = 0, squares = 0;
  for (int64_t end = length; end > 0; end -= kSteps) {
    const int64_t begin = std::max<int64_t>(0, end - kSteps), size = end - begin;
    const int64_t at = start + begin;
    block.reward = as_accumulator<acc_t>(rows.rewards + at, room[0], size);
    block.value = as_accumulator<acc_t>(rows.values + at, room[1], size);
    if (rows.reference != nullptr)
      block.reference = as_accumulator<acc_t>(rows.reference + at, room[2], size);
    if constexpr (is_narrow)
      block.advantages = room[3], block.returns = room[4];
    else
      block.advantages = advantages + begin, block.returns = returns + begin;
    const auto sums = run_block(block, by, size);
    kl += sums.kl, sum += sums.sum, squares += sums.squares;
    block.next_value = block.value[0], block.carry = block.advantages[0], block.score = 0;
    if constexpr (is_narrow) {
      convert(advantages + begin, room[3], size);
      convert(returns + begin, room[4], size);
    }
  }
  std::fill(advantages + length, advantages + rows.T, scalar_t(0.0f));
  std::fill(returns + length, returns + rows.T, scalar_t(0.0f));
  if (rows.kl != nullptr) {
    rows.kl[n] = static_cast<scalar_t>(static_cast<acc_t>(kl));
    rows.moments[2 * n] = sum, rows.moments[2 * n + 1] = squares;
  }
}

template <typename scalar_t>
void run_rows(const Rows<scalar_t> &rows, double beta, double gamma, double lam) {
  using acc_t = accumulator_t<scalar_t>;
  const Coefficients<acc_t> by(gamma, lam, beta);
  const int64_t grain = std::max<int64_t>(1, kStepsPerTask / std::max<int64_t>(1, rows.T));
  torch::stable::parallel_for(0, rows.N, grain, [&](int64_t begin, int64_t end) {
    for (int64_t n = end; n-- > begin;) // downwards, as along a row: one stream for prefetching
      run_row(rows, n, by);
  });
}

void check_lengths(const char *op, const Tensor &lengths, int64_t T) {
  const int64_t *length = lengths.const_data_ptr<int64_t>();
  const bool is_good =
      std::all_of(length, length + lengths.numel(), [T](int64_t x) { return x >= 0 && x <= T; });
  STD_TORCH_CHECK(is_good, op, ": lengths must lie in [0, ", T, "]");
}

TensorPair gae_cpu(const Tensor &rewards, const Tensor &values, const Tensor &lengths,
                   const Tensor &bootstrap, double gamma, double lam) {
  check_gae(rewards, values, lengths, bootstrap);
  const auto r = packed(rewards), v = packed(values), l = packed(lengths), b = packed(bootstrap);
  auto advantages = empty(r, r.sizes());
  auto returns = empty(r, r.sizes());
  const int64_t N = r.size(0), T = r.size(1);
  if (r.numel() == 0)
    return {advantages, returns};
  check_lengths("gae", l, T);
  visit_floating("gae", r.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    Rows<scalar_t> rows{};
    rows.rewards = r.const_data_ptr<scalar_t>(), rows.values = v.const_data_ptr<scalar_t>();
    rows.bootstrap = b.const_data_ptr<scalar_t>(), rows.lengths = l.const_data_ptr<int64_t>();
    rows.advantages = advantages.mutable_data_ptr<scalar_t>();
    rows.returns = returns.mutable_data_ptr<scalar_t>();
    rows.N = N, rows.T = T;
    run_rows(rows, 0.0, gamma, lam);
  });
  return {advantages, returns};
}

ShapedOutputs kl_gae_cpu(const Tensor &logprobs, const Tensor &ref_logprobs, const Tensor &values,
                         const Tensor &scores, const Tensor &lengths, const Tensor &bootstrap,
                         double beta, double gamma, double lam) {
  check_kl_gae(logprobs, ref_logprobs, values, scores, lengths, bootstrap);
  const auto p = packed(logprobs), q = packed(ref_logprobs), v = packed(values), s = packed(scores),
             l = packed(lengths), b = packed(bootstrap);
  const int64_t N = p.size(0), T = p.size(1);
  auto advantages = empty(p, p.sizes());
  auto returns = empty(p, p.sizes());
  auto kl = empty(p, {N});
  auto moments = empty(p, {N, 2}, ScalarType::Double);
  check_lengths("kl_gae", l, T);
  visit_floating("kl_gae", p.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    const Rows<scalar_t> rows{p.const_data_ptr<scalar_t>(),
                              q.const_data_ptr<scalar_t>(),
                              v.const_data_ptr<scalar_t>(),
                              s.const_data_ptr<scalar_t>(),
                              b.const_data_ptr<scalar_t>(),
                              l.const_data_ptr<int64_t>(),
                              advantages.mutable_data_ptr<scalar_t>(),
                              returns.mutable_data_ptr<scalar_t>(),
                              kl.mutable_data_ptr<scalar_t>(),
                              moments.mutable_data_ptr<double>(),
                              N,
                              T};
    run_rows(rows, beta, gamma, lam);
  });
  return {advantages, returns, kl, moments};
}

} // namespace rlaif_pl
