/* softmax.h: the algebra of a softmax seen block by block, for both the CPU and the GPU. No torch
 * header.
 *
 *   z = cap(logit + bias) / temperature        cap(x) = softcap * tanh(x / softcap), or x
 *
 * State of a row after some blocks: the largest z so far, sum = sum of exp(z - max), moment = sum
 * of exp(z - max) (z - max), the taken token's z, and the factor that the last block multiplied
 * older sums by. At the end logprob = taken - max - log(sum) and
 * entropy = log(sum) - moment / sum.
 *
 * Source    Milakov and Gimelshein 2018, arXiv:1805.02867 (online normalizer).
 * Types     acc_t is float (for float, half and bfloat16 storage) or double.
 * Reference rlaif_pl/ops/reference.py::online_softmax_update_, online_softmax_backward_;
 *           tests/ops/test_linear.py.
 */
#pragma once
#include <limits>

#include "host_device.h"

namespace rlaif_pl {

enum SoftmaxState { kMax, kSum, kMoment, kTaken, kFactor, kSoftmaxState };

template <typename acc_t> struct Shape {
  acc_t inv_temperature;
  acc_t softcap; // 0: none
};

/* z, and d cap / d logit; the temperature's share of the slope is left to the caller. */
template <typename acc_t> struct Shaped {
  acc_t z;
  acc_t slope;
};

template <bool capped, typename Math, typename acc_t>
RLAIF_PL_HD Shaped<acc_t> shaped(acc_t logit, const Shape<acc_t> &shape) {
  const acc_t one = 1;
  if (!capped)
    return {logit * shape.inv_temperature, one};
  const acc_t x = logit / shape.softcap, size = x < acc_t(0) ? -x : x;
  const acc_t small = Math::exp_negative(acc_t(-2) * size);
  const acc_t tanh_size = (one - small) / (one + small);
  const acc_t tanh = x < acc_t(0) ? -tanh_size : tanh_size;
  return {shape.softcap * tanh * shape.inv_temperature, one - tanh * tanh};
}

template <typename Math, typename acc_t>
RLAIF_PL_HD Shaped<acc_t> shaped(acc_t logit, const Shape<acc_t> &shape) {
  return shape.softcap > acc_t(0) ? shaped<true, Math>(logit, shape)
                                  : shaped<false, Math>(logit, shape);
}

template <typename acc_t> constexpr acc_t kMinusInfinity = -std::numeric_limits<acc_t>::infinity();

/* What some entries of a row add up to, relative to their largest z. */
template <typename acc_t> struct SoftmaxSums {
  acc_t max, sum, moment;
};

template <typename acc_t> RLAIF_PL_HD SoftmaxSums<acc_t> sums_of_nothing() {
  return {kMinusInfinity<acc_t>, acc_t(0), acc_t(0)};
}

/* What to subtract from z where `largest` is the maximum: of -infinity alone, nothing. */
template <typename acc_t> RLAIF_PL_HD acc_t softmax_offset(acc_t largest) {
  return largest > kMinusInfinity<acc_t> ? largest : acc_t(0);
}

/* Refer sums to a maximum that is no smaller; returns the factor of the sum. Entries of -infinity
 * alone keep sums of 0 and no NaN, since others may hold more. */
template <typename Math, typename acc_t>
RLAIF_PL_HD acc_t softmax_rescale(SoftmaxSums<acc_t> &sums, acc_t largest) {
  const acc_t gap = sums.max - largest; // <= 0; NaN where both are -infinity
  const bool is_empty = sums.sum == acc_t(0);
  const acc_t factor = is_empty ? acc_t(0) : Math::exp_negative(gap);
  sums.moment = factor == acc_t(0) ? acc_t(0) : (sums.moment + sums.sum * gap) * factor;
  sums.sum = is_empty ? acc_t(0) : sums.sum * factor;
  sums.max = largest;
  return factor;
}

/* The sums of two sets of entries together. */
template <typename Math, typename acc_t>
RLAIF_PL_HD SoftmaxSums<acc_t> softmax_merge(SoftmaxSums<acc_t> one, SoftmaxSums<acc_t> two) {
  const acc_t largest = two.max > one.max ? two.max : one.max;
  softmax_rescale<Math>(one, largest);
  softmax_rescale<Math>(two, largest);
  return {largest, one.sum + two.sum, one.moment + two.moment};
}

/* Take the sums of a block of columns into the state of its row. */
template <typename Math, typename acc_t>
RLAIF_PL_HD void softmax_update(acc_t *state, SoftmaxSums<acc_t> block) {
  SoftmaxSums<acc_t> older{state[kMax], state[kSum], state[kMoment]};
  const acc_t largest = block.max > older.max ? block.max : older.max;
  state[kFactor] = softmax_rescale<Math>(older, largest);
  softmax_rescale<Math>(block, largest);
  state[kMax] = largest;
  state[kSum] = older.sum + block.sum;
  state[kMoment] = older.moment + block.moment;
}

/* What the slope of a row needs; the layout of a row of `rows`. */
template <typename acc_t> struct SlopeRow {
  acc_t logsumexp, entropy, grad_logprob, grad_entropy;
};

constexpr int kSlopeRow = 4;

template <typename acc_t> RLAIF_PL_HD SlopeRow<acc_t> slope_row(const acc_t *row) {
  return {row[0], row[1], row[2], row[3]};
}

/* d (grad_logprob logprob + grad_entropy entropy) / d logit of a token that was not taken; the
 * taken one gets grad_logprob * slope / temperature on top. */
template <typename Math, typename acc_t>
RLAIF_PL_HD acc_t softmax_slope(Shaped<acc_t> one, const Shape<acc_t> &shape,
                                const SlopeRow<acc_t> &row) {
  const acc_t logprob = one.z - row.logsumexp, p = Math::exp_negative(logprob);
  const acc_t pull = row.grad_logprob + row.grad_entropy * (logprob + row.entropy);
  const acc_t slope = -p * pull * one.slope * shape.inv_temperature;
  return p == acc_t(0) ? acc_t(0) : slope;
}

} // namespace rlaif_pl
