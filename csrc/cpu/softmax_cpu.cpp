/* softmax_cpu.cpp: statistics and slopes of a softmax whose logits come in blocks of columns.
 *
 * z = cap(logit + bias) / temperature, where cap(x) = softcap * tanh(x / softcap), or x without a
 * softcap. Threads over rows. A row is taken in pieces that stay in the first-level cache; the sums
 * of a piece refer to its own maximum and are merged into those before, so that memory is read
 * once.
 *
 * Shapes    logits: (N, B) contiguous, overwritten; tokens: (N,); bias: (B,) or null;
 *           state: (N, 5) as math/softmax.h says; the rest (N,).
 * Cost      online_softmax_update_: reads NB once, an exponential an element; if weighted, reads
 * and writes NB once more, with another exponential. A softcap adds an exponential to each.
 *           online_softmax_backward_: reads and writes NB once.
 */
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../checks.h"
#include "../launchers.h"
#include "../math/softmax.h"
#include "vector_math.h"

namespace rlaif_pl {

constexpr int64_t kLogitsPerTask = 1 << 14;
constexpr int64_t kColumns = 1024; // of a piece

struct CpuMath {
  template <typename acc_t> static RLAIF_PL_INLINE acc_t exp_negative(acc_t x) {
    return exp_below_zero(x);
  }
};

template <bool biased, typename acc_t>
RLAIF_PL_INLINE acc_t biased_logit(const acc_t *logit, const acc_t *bias, int64_t i) {
  return biased ? logit[i] + bias[i] : logit[i];
}

template <bool biased, bool capped, typename acc_t>
RLAIF_PL_INLINE SoftmaxSums<acc_t> sums_loop(const acc_t *logit, const acc_t *bias,
                                             const Shape<acc_t> &shape, int64_t n) {
  acc_t z[kColumns], sum = 0, moment = 0, largest = kMinusInfinity<acc_t>;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    z[i] = shaped<capped, CpuMath>(biased_logit<biased>(logit, bias, i), shape).z;
    largest = z[i] > largest ? z[i] : largest;
  }
  const acc_t offset = softmax_offset(largest);
#pragma omp simd reduction(+ : sum, moment)
  for (int64_t i = 0; i < n; ++i) {
    const acc_t gap = z[i] - offset, weight = exp_below_zero(gap);
    sum += weight;
    moment += weight == acc_t(0) ? acc_t(0) : weight * gap;
  }
  return {largest, sum, moment};
}

template <bool biased, bool capped, typename acc_t>
RLAIF_PL_INLINE void weights_loop(acc_t *weights, const acc_t *logit, const acc_t *bias,
                                  const Shape<acc_t> &shape, acc_t offset, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const auto one = shaped<capped, CpuMath>(biased_logit<biased>(logit, bias, i), shape);
    weights[i] = exp_below_zero(one.z - offset) * one.slope;
  }
}

template <bool biased, bool capped, typename acc_t>
RLAIF_PL_INLINE void slope_loop(acc_t *slopes, const acc_t *logit, const acc_t *bias,
                                const Shape<acc_t> &shape, const SlopeRow<acc_t> &row, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const auto one = shaped<capped, CpuMath>(biased_logit<biased>(logit, bias, i), shape);
    slopes[i] = softmax_slope<CpuMath>(one, shape, row);
  }
}

/* Call visit with the flags as types, so that each combination has its own loop. */
template <typename acc_t, typename Visitor>
RLAIF_PL_INLINE void with_flags(const acc_t *bias, const Shape<acc_t> &shape,
                                const Visitor &visit) {
  using yes = std::true_type;
  using no = std::false_type;
  const bool capped = shape.softcap > acc_t(0);
  if (bias != nullptr)
    capped ? visit(yes{}, yes{}) : visit(yes{}, no{});
  else
    capped ? visit(no{}, yes{}) : visit(no{}, no{});
}

template <typename acc_t>
RLAIF_PL_INLINE SoftmaxSums<acc_t> sums_body(const acc_t *logit, const acc_t *bias,
                                             const Shape<acc_t> &shape, int64_t n) {
  auto sums = sums_of_nothing<acc_t>();
  with_flags(bias, shape, [&](auto b, auto c) __attribute__((always_inline)) {
    sums = sums_loop<b.value, c.value>(logit, bias, shape, n);
  });
  return sums;
}

template <typename acc_t>
RLAIF_PL_INLINE void weights_body(acc_t *weights, const acc_t *logit, const acc_t *bias,
                                  const Shape<acc_t> &shape, acc_t offset, int64_t n) {
  with_flags(bias, shape, [&](auto b, auto c) __attribute__((always_inline)) {
    weights_loop<b.value, c.value>(weights, logit, bias, shape, offset, n);
  });
}

template <typename acc_t>
RLAIF_PL_INLINE void slope_body(acc_t *slopes, const acc_t *logit, const acc_t *bias,
                                const Shape<acc_t> &shape, const SlopeRow<acc_t> &row, int64_t n) {
  with_flags(bias, shape, [&](auto b, auto c) __attribute__((always_inline)) {
    slope_loop<b.value, c.value>(slopes, logit, bias, shape, row, n);
  });
}

RLAIF_PL_CLONES SoftmaxSums<float> row_sums(const float *logit, const float *bias,
                                            const Shape<float> &shape, int64_t n) {
  return sums_body(logit, bias, shape, n);
}
RLAIF_PL_CLONES void row_weights(float *weights, const float *logit, const float *bias,
                                 const Shape<float> &shape, float offset, int64_t n) {
  weights_body(weights, logit, bias, shape, offset, n);
}
RLAIF_PL_CLONES void row_slope(float *slopes, const float *logit, const float *bias,
                               const Shape<float> &shape, const SlopeRow<float> &row, int64_t n) {
  slope_body(slopes, logit, bias, shape, row, n);
}
inline SoftmaxSums<double> row_sums(const double *logit, const double *bias,
                                    const Shape<double> &shape, int64_t n) {
  return sums_body(logit, bias, shape, n);
}
inline void row_weights(double *weights, const double *logit, const double *bias,
                        const Shape<double> &shape, double offset, int64_t n) {
  weights_body(weights, logit, bias, shape, offset, n);
}
inline void row_slope(double *slopes, const double *logit, const double *bias,
                      const Shape<double> &shape, const SlopeRow<double> &row, int64_t n) {
  slope_body(slopes, logit, bias, shape, row, n);
}

/* Walk a row in pieces of kColumns: act(numbers in, numbers out, bias, count) on each. */
template <bool writes, typename scalar_t, typename Act>
void walk(scalar_t *row, const accumulator_t<scalar_t> *bias, int64_t B, const Act &act) {
  using acc_t = accumulator_t<scalar_t>;
  constexpr bool is_narrow = !std::is_same_v<scalar_t, acc_t>;
  acc_t room[is_narrow ? kColumns : 1];
  for (int64_t begin = 0; begin < B; begin += kColumns) {
    const int64_t n = std::min(kColumns, B - begin);
    const acc_t *piece = bias == nullptr ? nullptr : bias + begin;
    if constexpr (is_narrow) {
      convert(room, row + begin, n);
      act(room, piece, n);
      if (writes)
        convert(row + begin, room, n);
    } else {
      act(row + begin, piece, n);
    }
  }
}

template <typename scalar_t>
void update_row(scalar_t *row, int64_t token, const accumulator_t<scalar_t> *bias,
                accumulator_t<scalar_t> *state, const Shape<accumulator_t<scalar_t>> &shape,
                int64_t B, bool weighted) {
  using acc_t = accumulator_t<scalar_t>;
  if (token >= 0 && token < B) {
    const acc_t logit = static_cast<acc_t>(row[token]) + (bias == nullptr ? acc_t(0) : bias[token]);
    state[kTaken] = shaped<CpuMath>(logit, shape).z;
  }
  auto sums = sums_of_nothing<acc_t>();
  walk<false>(row, bias, B, [&](const acc_t *logit, const acc_t *piece, int64_t n) {
    sums = softmax_merge<CpuMath>(sums, row_sums(logit, piece, shape, n));
  });
  softmax_update<CpuMath>(state, sums);
  if (!weighted)
    return;
  const acc_t offset = softmax_offset(state[kMax]);
  walk<true>(row, bias, B, [&](acc_t *logit, const acc_t *piece, int64_t n) {
    row_weights(logit, logit, piece, shape, offset, n);
  });
}

void online_softmax_update_cpu(Tensor logits, const Tensor &tokens,
                               const std::optional<Tensor> &bias, Tensor state, int64_t start,
                               double inv_temperature, double softcap, bool weighted) {
  check_softmax_update(logits, tokens, bias, state);
  const auto t = packed(tokens);
  const std::optional<Tensor> b = packed(bias);
  const int64_t N = logits.size(0), B = logits.size(1);
  visit_floating("online_softmax_update_", logits.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    const Shape<acc_t> shape{static_cast<acc_t>(inv_temperature), static_cast<acc_t>(softcap)};
    scalar_t *logit = logits.mutable_data_ptr<scalar_t>();
    acc_t *states = state.mutable_data_ptr<acc_t>();
    const int64_t *token = t.const_data_ptr<int64_t>();
    const acc_t *offsets = b.has_value() ? b->const_data_ptr<acc_t>() : nullptr;
    const int64_t grain = std::max<int64_t>(1, kLogitsPerTask / std::max<int64_t>(1, B));
    torch::stable::parallel_for(0, N, grain, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        update_row(logit + n * B, token[n] - start, offsets, states + n * kSoftmaxState, shape, B,
                   weighted);
    });
  });
}

void online_softmax_backward_cpu(Tensor logits, const Tensor &tokens,
                                 const std::optional<Tensor> &bias, const Tensor &rows,
                                 int64_t start, double inv_temperature, double softcap) {
  check_softmax_backward(logits, tokens, bias, rows);
  const auto t = packed(tokens), r = packed(rows);
  const std::optional<Tensor> b = packed(bias);
  const int64_t N = logits.size(0), B = logits.size(1);
  visit_floating("online_softmax_backward_", logits.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    const Shape<acc_t> shape{static_cast<acc_t>(inv_temperature), static_cast<acc_t>(softcap)};
    scalar_t *logit = logits.mutable_data_ptr<scalar_t>();
    const acc_t *row = r.const_data_ptr<acc_t>();
    const int64_t *tokens_of = t.const_data_ptr<int64_t>();
    const acc_t *offsets = b.has_value() ? b->const_data_ptr<acc_t>() : nullptr;
    const int64_t grain = std::max<int64_t>(1, kLogitsPerTask / std::max<int64_t>(1, B));
    torch::stable::parallel_for(0, N, grain, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const SlopeRow<acc_t> one = slope_row(row + n * kSlopeRow);
        const int64_t token = tokens_of[n] - start;
        const bool is_here = token >= 0 && token < B;
        acc_t taken = 0;
        if (is_here) {
          const acc_t bias_of = offsets == nullptr ? acc_t(0) : offsets[token];
          const acc_t x = static_cast<acc_t>(logit[n * B + token]) + bias_of;
          const auto shaped_one = shaped<CpuMath>(x, shape);
          taken = softmax_slope<CpuMath>(shaped_one, shape, one) +
                  one.grad_logprob * shaped_one.slope * shape.inv_temperature;
        }
        walk<true>(logit + n * B, offsets, B, [&](acc_t *x, const acc_t *piece, int64_t count) {
          row_slope(x, x, piece, shape, one, count);
        });
        if (is_here)
          logit[n * B + token] = static_cast<scalar_t>(taken);
      }
    });
  });
}

} // namespace rlaif_pl
