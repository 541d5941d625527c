/* gae_cpu.cpp: threads over rows, vector code along a row. Serves gae and shaped_gae.
 *
 * A row is taken in blocks of kSteps from its end. In a block, x[t] = sum over k < w of
 * decay^k delta[t + k] is widened from w = 1 to 4 to 16 in two passes; then A[t] = x[t] + decay^16 A[t + 16] is a recurrence over vectors of 16 steps. No step waits for
 * the one after it, and a NaN still reaches earlier steps only.
 *
 * Shapes    rewards, logprobs, ref_logprobs, values, advantages, returns: (N, T) contiguous;
 *           scores, lengths, bootstrap, kl: (N,); moments: (N, 2).
 * Cost      one pass: gae reads 2NT and writes 2NT elements, shaped_gae reads 3NT and writes 2NT.
 */
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>

#include "../checks.h"
#include "../launchers.h"
#include "vector_math.h"

namespace rlaif_pl {

constexpr int64_t kStepsPerTask = 1 << 15; // below this a thread costs more than it saves
constexpr int64_t kSteps = 1024;           // a block's buffers stay in the first-level cache
constexpr int64_t kLanes = 16;

template <typename acc_t> struct Coefficients {
  acc_t gamma, beta;
  acc_t decay[kLanes + 1]; // powers of gamma * lam
};

template <typename acc_t> struct RowSums {
  acc_t kl, sum, squares;
};

/* x[t] = reward[t] + gamma * V[t + 1] - V[t] for n steps; V[n] is next_value. With `reference` the
 * reward is -beta * (reward - reference), which are then log-probabilities. Returns their gap. */
template <typename acc_t>
RLAIF_PL_INLINE acc_t delta_body(acc_t *__restrict__ x, const acc_t *__restrict__ reward,
                                 const acc_t *__restrict__ reference,
                                 const acc_t *__restrict__ value, acc_t next_value,
                                 const Coefficients<acc_t> &by, int64_t n) {
  const acc_t gamma = by.gamma, beta = by.beta;
  acc_t gap = 0;
  if (reference != nullptr) {
#pragma omp simd reduction(+ : gap)
    for (int64_t i = 0; i < n; ++i) {
      gap += reward[i] - reference[i];
      x[i] = -beta * (reward[i] - reference[i]) - value[i];
    }
  } else {
    for (int64_t i = 0; i < n; ++i)
      x[i] = reward[i] - value[i];
  }
  for (int64_t i = 0; i + 1 < n; ++i)
    x[i] += gamma * value[i + 1];
  x[n - 1] += gamma * next_value;
  return gap;
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi" // vectors are returned by inlined functions only
#endif

/* kLanes numbers as one value; the compiler splits it into what the processor has. */
template <typename acc_t> struct Vector {
  typedef acc_t type __attribute__((vector_size(kLanes * sizeof(acc_t))));
};

template <typename acc_t> RLAIF_PL_INLINE typename Vector<acc_t>::type load(const acc_t *x) {
  typename Vector<acc_t>::type lanes;
  std::memcpy(&lanes, x, sizeof(lanes));
  return lanes;
}

template <typename acc_t>
RLAIF_PL_INLINE void store(acc_t *x, const typename Vector<acc_t>::type &lanes) {
  std::memcpy(x, &lanes, sizeof(lanes));
}

/* Sums over windows four times as wide as the w steps that x holds; in place, ascending, so that
 * what is read ahead is not yet written. */
template <int w, typename acc_t>
RLAIF_PL_INLINE void widen(acc_t *x, const Coefficients<acc_t> &by, int64_t n) {
  const acc_t one = by.decay[w], two = by.decay[2 * w], three = by.decay[3 * w];
  for (int64_t i = 0; i < n; i += kLanes)
    store(x + i, (load(x + i) + one * load(x + i + w)) +
                     (two * load(x + i + 2 * w) + three * load(x + i + 3 * w)));
}

/* Turn deltas into advantages: x holds n of them and then zeros up to 3 * kLanes more. */
template <typename acc_t>
RLAIF_PL_INLINE void scan_body(acc_t *x, const Coefficients<acc_t> &by, int64_t n) {
  widen<1>(x, by, n);
  widen<4>(x, by, n);
  auto later = load(x + n); // zeros
  for (int64_t i = (n - 1) / kLanes * kLanes; i >= 0; i -= kLanes) {
    later = load(x + i) + by.decay[kLanes] * later;
    store(x + i, later);
  }
}

template <typename acc_t>
RLAIF_PL_INLINE void finish_body(acc_t *__restrict__ advantages, acc_t *__restrict__ returns,
                                 const acc_t *__restrict__ x, const acc_t *__restrict__ value,
                                 RowSums<acc_t> &sums, int64_t n) {
  acc_t sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum, squares)
  for (int64_t i = 0; i < n; ++i) {
    advantages[i] = x[i];
    returns[i] = x[i] + value[i];
    sum += x[i];
    squares += x[i] * x[i];
  }
  sums.sum = sum;
  sums.squares = squares;
}

/* One block of a row. Arrays have n entries; `last` is what comes after them. */
template <typename acc_t> struct Block {
  const acc_t *reward, *reference, *value;
  acc_t *advantages, *returns;
  acc_t next_value, carry, score; // the score joins the block's last step
};

template <typename acc_t>
RLAIF_PL_INLINE RowSums<acc_t> block_body(const Block<acc_t> &block,
                                          const Coefficients<acc_t> &by, int64_t n) {
  static_assert(kLanes == 16); // two passes of widen
  alignas(64) acc_t x[kSteps + 3 * kLanes];
  RowSums<acc_t> sums;
  sums.kl = delta_body(x, block.reward, block.reference, block.value, block.next_value, by, n);
  x[n - 1] += block.score + by.decay[1] * block.carry;
  for (int64_t k = 0; k < 3 * kLanes; ++k)
    x[n + k] = 0;
  scan_body(x, by, n);
  finish_body(block.advantages, block.returns, x, block.value, sums, n);
  return sums;
}

RLAIF_PL_CLONES RowSums<float> run_block(const Block<float> &block, const Coefficients<float> &by,
                                         int64_t n) {
  return block_body(block, by, n);
}
inline RowSums<double> run_block(const Block<double> &block, const Coefficients<double> &by,
                                 int64_t n) {
  return block_body(block, by, n);
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
  Coefficients<acc_t> by{static_cast<acc_t>(gamma), static_cast<acc_t>(beta), {}};
  double decay = 1;
  for (acc_t &power : by.decay) {
    power = static_cast<acc_t>(decay);
    decay *= gamma * lam;
  }
  const int64_t grain = std::max<int64_t>(1, kStepsPerTask / std::max<int64_t>(1, rows.T));
  torch::stable::parallel_for(0, rows.N, grain, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      run_row(rows, n, by);
  });
}

void check_lengths(const char *op, const Tensor &lengths, int64_t T) {
  const int64_t *length = lengths.const_data_ptr<int64_t>();
  const bool is_good = std::all_of(length, length + lengths.numel(),
                                   [T](int64_t x) { return x >= 0 && x <= T; });
  STD_TORCH_CHECK(is_good, op, ": lengths must lie in [0, ", T, "]");
}

TensorPair gae_cpu(const Tensor &rewards, const Tensor &values, const Tensor &lengths,
                   const Tensor &bootstrap, double gamma, double lam) {
  check_gae(rewards, values, lengths, bootstrap);
  const auto r = packed(rewards), v = packed(values), l = packed(lengths), b = packed(bootstrap);
  auto advantages = torch::stable::new_empty(r, r.sizes());
  auto returns = torch::stable::new_empty(r, r.sizes());
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

ShapedOutputs shaped_gae_cpu(const Tensor &logprobs, const Tensor &ref_logprobs,
                             const Tensor &values, const Tensor &scores, const Tensor &lengths,
                             const Tensor &bootstrap, double beta, double gamma, double lam) {
  check_shaped_gae(logprobs, ref_logprobs, values, scores, lengths, bootstrap);
  const auto p = packed(logprobs), q = packed(ref_logprobs), v = packed(values),
             s = packed(scores), l = packed(lengths), b = packed(bootstrap);
  const int64_t N = p.size(0), T = p.size(1);
  auto advantages = torch::stable::new_empty(p, p.sizes());
  auto returns = torch::stable::new_empty(p, p.sizes());
  auto kl = torch::stable::new_empty(p, {N});
  auto moments = torch::stable::new_empty(p, {N, 2}, ScalarType::Double);
  check_lengths("shaped_gae", l, T);
  visit_floating("shaped_gae", p.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    const Rows<scalar_t> rows{
        p.const_data_ptr<scalar_t>(), q.const_data_ptr<scalar_t>(), v.const_data_ptr<scalar_t>(),
        s.const_data_ptr<scalar_t>(), b.const_data_ptr<scalar_t>(), l.const_data_ptr<int64_t>(),
        advantages.mutable_data_ptr<scalar_t>(), returns.mutable_data_ptr<scalar_t>(),
        kl.mutable_data_ptr<scalar_t>(), moments.mutable_data_ptr<double>(), N, T};
    run_rows(rows, beta, gamma, lam);
  });
  return {advantages, returns, kl, moments};
}

} // namespace rlaif_pl
