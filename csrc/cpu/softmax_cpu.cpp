/* softmax_cpu.cpp: statistics and slopes of a softmax whose logits come in blocks of columns.
 *
 * z = cap(logit + bias) / temperature, where cap(x) = softcap * tanh(x / softcap), or x without a
 * softcap. Threads over rows, vector code along a row; a block is small enough to stay in cache.
 *
 * Shapes    logits: (N, B) contiguous, overwritten; tokens: (N,); bias: (B,) or null;
 *           state: (N, 5) as math/softmax.h says; the rest (N,).
 * Cost      softmax_block_: reads NB twice (from cache), writes NB if weighted; an exponential an
 *           element, two with a softcap. softmax_slope_: reads and writes NB once.
 */
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../checks.h"
#include "../launchers.h"
#include "../math/softmax.h"
#include "vector_math.h"

namespace rlaif_pl {

constexpr int64_t kLogitsPerTask = 1 << 14;
constexpr int64_t kColumns = 2048; // buffer of half and bfloat16 logits as float

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
RLAIF_PL_INLINE acc_t max_loop(const acc_t *logit, const acc_t *bias, const Shape<acc_t> &shape,
                               acc_t largest, int64_t n) {
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    const acc_t z = shaped<capped, CpuMath>(biased_logit<biased>(logit, bias, i), shape).z;
    largest = z > largest ? z : largest;
  }
  return largest;
}

template <bool biased, bool capped, bool weighted, typename acc_t>
RLAIF_PL_INLINE void sum_loop(acc_t *weights, const acc_t *logit, const acc_t *bias,
                              const Shape<acc_t> &shape, acc_t offset, acc_t *sums, int64_t n) {
  acc_t sum = 0, moment = 0;
#pragma omp simd reduction(+ : sum, moment)
  for (int64_t i = 0; i < n; ++i) {
    const auto one = shaped<capped, CpuMath>(biased_logit<biased>(logit, bias, i), shape);
    const acc_t gap = one.z - offset, weight = exp_below_zero(gap);
    sum += weight;
    moment += weight == acc_t(0) ? acc_t(0) : weight * gap;
    if (weighted)
      weights[i] = weight * one.slope;
  }
  sums[0] += sum;
  sums[1] += moment;
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
RLAIF_PL_INLINE acc_t max_body(const acc_t *logit, const acc_t *bias, const Shape<acc_t> &shape,
                               acc_t largest, int64_t n) {
  acc_t result = largest;
  with_flags(bias, shape, [&](auto b, auto c) __attribute__((always_inline)) {
    result = max_loop<b.value, c.value>(logit, bias, shape, largest, n);
  });
  return result;
}

template <typename acc_t>
RLAIF_PL_INLINE void sum_body(acc_t *weights, const acc_t *logit, const acc_t *bias,
                              const Shape<acc_t> &shape, acc_t offset, acc_t *sums, int64_t n) {
  with_flags(bias, shape, [&](auto b, auto c) __attribute__((always_inline)) {
    if (weights != nullptr)
      sum_loop<b.value, c.value, true>(weights, logit, bias, shape, offset, sums, n);
    else
      sum_loop<b.value, c.value, false>(weights, logit, bias, shape, offset, sums, n);
  });
}

template <typename acc_t>
RLAIF_PL_INLINE void slope_body(acc_t *slopes, const acc_t *logit, const acc_t *bias,
                                const Shape<acc_t> &shape, const SlopeRow<acc_t> &row, int64_t n) {
  with_flags(bias, shape, [&](auto b, auto c) __attribute__((always_inline)) {
    slope_loop<b.value, c.value>(slopes, logit, bias, shape, row, n);
  });
}

RLAIF_PL_CLONES float row_max(const float *logit, const float *bias, const Shape<float> &shape,
                              float largest, int64_t n) {
  return max_body(logit, bias, shape, largest, n);
}
RLAIF_PL_CLONES void row_sum(float *weights, const float *logit, const float *bias,
                             const Shape<float> &shape, float offset, float *sums, int64_t n) {
  sum_body(weights, logit, bias, shape, offset, sums, n);
}
RLAIF_PL_CLONES void row_slope(float *slopes, const float *logit, const float *bias,
                               const Shape<float> &shape, const SlopeRow<float> &row, int64_t n) {
  slope_body(slopes, logit, bias, shape, row, n);
}
inline double row_max(const double *logit, const double *bias, const Shape<double> &shape,
                      double largest, int64_t n) {
  return max_body(logit, bias, shape, largest, n);
}
inline void row_sum(double *weights, const double *logit, const double *bias,
                    const Shape<double> &shape, double offset, double *sums, int64_t n) {
  sum_body(weights, logit, bias, shape, offset, sums, n);
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
void block_of_row(scalar_t *row, int64_t token, const accumulator_t<scalar_t> *bias,
                  accumulator_t<scalar_t> *state, const Shape<accumulator_t<scalar_t>> &shape,
                  int64_t B, bool weighted) {
  using acc_t = accumulator_t<scalar_t>;
  if (token >= 0 && token < B) {
    const acc_t logit = static_cast<acc_t>(row[token]) + (bias == nullptr ? acc_t(0) : bias[token]);
    state[kTaken] = shaped<CpuMath>(logit, shape).z;
  }
  acc_t largest = state[kMax];
  walk<false>(row, bias, B, [&](const acc_t *logit, const acc_t *piece, int64_t n) {
    largest = row_max(logit, piece, shape, largest, n);
  });
  const acc_t offset = softmax_rescale<CpuMath>(state, largest);
  acc_t sums[2] = {0, 0};
  const auto add = [&](acc_t *logit, const acc_t *piece, int64_t n) {
    row_sum(weighted ? logit : nullptr, logit, piece, shape, offset, sums, n);
  };
  weighted ? walk<true>(row, bias, B, add) : walk<false>(row, bias, B, add);
  state[kSum] += sums[0];
  state[kMoment] += sums[1];
}

void softmax_block_cpu(Tensor logits, const Tensor &tokens, const std::optional<Tensor> &bias,
                       Tensor state, int64_t start, double inv_temperature, double softcap,
                       bool weighted) {
  check_softmax_block(logits, tokens, bias, state);
  const auto t = packed(tokens);
  const std::optional<Tensor> b = packed(bias);
  const int64_t N = logits.size(0), B = logits.size(1);
  visit_floating("softmax_block_", logits.scalar_type(), [&](auto zero) {
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
        block_of_row(logit + n * B, token[n] - start, offsets, states + n * kSoftmaxState, shape, B,
                     weighted);
    });
  });
}

void softmax_slope_cpu(Tensor logits, const Tensor &tokens, const std::optional<Tensor> &bias,
                       const Tensor &rows, int64_t start, double inv_temperature, double softcap) {
  check_softmax_slope(logits, tokens, bias, rows);
  const auto t = packed(tokens), r = packed(rows);
  const std::optional<Tensor> b = packed(bias);
  const int64_t N = logits.size(0), B = logits.size(1);
  visit_floating("softmax_slope_", logits.scalar_type(), [&](auto zero) {
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
