/* gae_block.h: advantages of one block of a row, in loops that compilers turn into vector code. No
 * torch header.
 *
 * A row is taken in blocks of kSteps from its end. One step after the other each waits for the
 * last:
 *
 *   A[t] = delta[t] + decay * A[t + 1]
 *
 * Instead two passes turn the deltas into x[t] = sum over k < kSpan of decay^k delta[t + k], and
 * then A[t] = x[t] + decay^kSpan * A[t + kSpan], where kSpan neighbors do not wait for one another.
 * A NaN reaches earlier steps only. tests/ops/cpu_widths compiles this for each width of vector.
 */
#pragma once
#include <cstdint>

#include "vector_math.h"

namespace rlaif_pl {

constexpr int64_t kSteps = 1024; // of a block: float sums no longer than this
constexpr int kSpan = 16;        // two passes of four terms

template <typename acc_t> struct Coefficients {
  acc_t gamma, beta;
  acc_t power[kSpan + 1]; // power[k] = (gamma * lam)^k

  Coefficients(double gamma, double lam, double beta)
      : gamma(static_cast<acc_t>(gamma)), beta(static_cast<acc_t>(beta)) {
    double power_k = 1;
    for (acc_t &of_k : power) {
      of_k = static_cast<acc_t>(power_k);
      power_k *= gamma * lam;
    }
  }
};

template <typename acc_t> struct RowSums {
  acc_t kl, sum, squares;
};

/* One block of a row. Arrays have n entries; next_value and carry, an advantage, come after. */
template <typename acc_t> struct Block {
  const acc_t *reward, *reference, *value; // reference: or null
  acc_t *advantages, *returns;
  acc_t next_value, carry, score; // the score joins the block's last step
};

/* Each x[i], a sum over `width` steps from i on, becomes one over four times as many. */
template <int width, typename acc_t>
RLAIF_PL_INLINE void widen(acc_t *x, const Coefficients<acc_t> &by, int64_t n) {
  const acc_t one = by.power[width], two = by.power[2 * width], three = by.power[3 * width];
  for (int64_t i = 0; i < n; ++i)
    x[i] += one * x[i + width] + (two * x[i + 2 * width] + three * x[i + 3 * width]);
}

/* The reward of a step is -beta * (reward - reference) if `shaped`. */
template <bool shaped, typename acc_t>
RLAIF_PL_INLINE RowSums<acc_t> block_body(const Block<acc_t> &block, const Coefficients<acc_t> &by,
                                          int64_t n) {
  const acc_t *reward = block.reward, *reference = block.reference, *value = block.value;
  acc_t *advantages = block.advantages, *returns = block.returns;
  const acc_t gamma = by.gamma, beta = by.beta, jump = by.power[kSpan];
  const int64_t whole = (n + kSpan - 1) / kSpan * kSpan; // what follows the block's n steps is 0
  acc_t x[kSteps + kSpan], kl = 0, sum = 0, squares = 0;
  const auto gap = [&](int64_t i) __attribute__((always_inline)) {
    return shaped ? reward[i] - reference[i] : acc_t(0);
  };
  const auto delta = [&](int64_t i, acc_t next_value) __attribute__((always_inline)) {
    return (shaped ? -beta * gap(i) : reward[i]) + gamma * next_value - value[i];
  };
#pragma omp simd reduction(+ : kl)
  for (int64_t i = 0; i < n - 1; ++i) {
    kl += gap(i);
    x[i] = delta(i, value[i + 1]);
  }
  kl += gap(n - 1);
  x[n - 1] = delta(n - 1, block.next_value) + block.score + by.power[1] * block.carry;
  for (int64_t i = n; i < whole + kSpan; ++i)
    x[i] = 0;
  widen<1>(x, by, whole);
  widen<4>(x, by, whole);
  acc_t after[kSpan] = {};
  for (int64_t i = whole - kSpan; i >= 0; i -= kSpan) {
#pragma omp simd
    for (int j = 0; j < kSpan; ++j)
      x[i + j] = after[j] = x[i + j] + jump * after[j];
  }
#pragma omp simd reduction(+ : sum, squares)
  for (int64_t i = 0; i < n; ++i) {
    advantages[i] = x[i];
    returns[i] = x[i] + value[i];
    sum += shaped ? x[i] : acc_t(0);
    squares += shaped ? x[i] * x[i] : acc_t(0);
  }
  return {kl, sum, squares};
}

template <typename acc_t>
RLAIF_PL_INLINE RowSums<acc_t> any_block(const Block<acc_t> &block, const Coefficients<acc_t> &by,
                                         int64_t n) {
  return block.reference == nullptr ? block_body<false>(block, by, n)
                                    : block_body<true>(block, by, n);
}

} // namespace rlaif_pl
