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

template <typename acc_t>
RLAIF_PL_HD PairwiseCe<acc_t> pairwise_ce(acc_t margin, acc_t target, acc_t weight) {
  const acc_t zero = 0, one = 1;
  if (weight == zero)
    return {zero, zero};
  const acc_t small = std::exp(-std::fabs(margin)); // in (0, 1], so no overflow
  // The side the margin speaks against; comparisons, since std::fmax is a call on the CPU.
  const acc_t share = margin > zero ? one - target : target;
  const acc_t against = share == zero ? zero : share * std::fabs(margin);
  const acc_t larger = one / (one + small), smaller = small * larger;
  const acc_t up = margin >= zero ? larger : smaller; // sigmoid(m); down is sigmoid(-m)
  const acc_t down = margin >= zero ? smaller : larger;
  return {weight * (std::log1p(small) + against), weight * ((one - target) * up - target * down)};
}

} // namespace rlaif_pl
