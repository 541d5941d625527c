/* pairwise_ce.h: loss and slope of one soft preference, for both the CPU and the GPU. No torch
 * header.
 *
 *   loss  = w * (p * softplus(-m) + (1 - p) * softplus(m))          m = first - second
 *   slope = w * ((1 - p) * sigmoid(m) - p * sigmoid(-m))            = d loss / d m
 *
 * Sums of terms of one sign: nothing cancels at large margins. A zero factor makes its term zero
 * even if the other is infinite (the limit), and a zero weight removes the pair even if m is NaN.
 *
 * Source    Lee et al. 2023, arXiv:2309.00267v2, section 2.2.1.
 * Types     acc_t is float (for float, half and bfloat16 storage) or double.
 * Reference rlaif_pl/ops/reference.py::pairwise_ce_fwd; tests/ops/test_pairwise.py.
 */
#pragma once
#include <cmath>

#include "host_device.h"

namespace rlaif_pl {

template <typename acc_t> struct PairwiseCe {
  acc_t loss;
  acc_t slope;
};

/* What a batch adds up to, beside the losses. */
enum PairwiseSum { kSumLoss, kSumWeight, kSumCorrect, kSumMargin, kPairwiseSums };

/* Finish a pair; `small` is exp(-|m|), in (0, 1], and `log1p_small` is log(1 + small).
 * Selections and no branches, so that the CPU's loop becomes vector code. */
template <typename acc_t>
RLAIF_PL_HD PairwiseCe<acc_t> pairwise_ce(acc_t margin, acc_t target, acc_t weight, acc_t small,
                                          acc_t log1p_small) {
  const acc_t zero = 0, one = 1;
  const acc_t size = margin < zero ? -margin : margin;
  // The side the margin speaks against.
  const acc_t share = margin > zero ? one - target : target;
  const acc_t against = share == zero ? zero : share * size;
  const acc_t larger = one / (one + small), smaller = small * larger;
  const acc_t up = margin < zero ? smaller : larger; // sigmoid(m); down is sigmoid(-m)
  const acc_t down = margin < zero ? larger : smaller;
  const acc_t loss = weight * (log1p_small + against);
  const acc_t slope = weight * ((one - target) * up - target * down);
  return {weight == zero ? zero : loss, weight == zero ? zero : slope};
}

/* 1 where margin and target prefer the same response, else 0. */
template <typename acc_t> RLAIF_PL_HD acc_t pairwise_correct(acc_t margin, acc_t target) {
  return (margin > acc_t(0)) == (target > acc_t(0.5)) ? acc_t(1) : acc_t(0);
}

} // namespace rlaif_pl
