/* gae.h: the advantage recurrence, compiled for both the CPU and the GPU. No torch header.
 *
 *   delta[t] = r[t] + gamma * V[t+1] - V[t]              V[L] = bootstrap
 *   A[t]     = delta[t] + gamma * lam * A[t+1]           A[L] = 0
 *
 * Each step is an affine map of the advantage after it, x -> scale * x + shift. Maps compose
 * associatively, which is what lets a warp scan 32 steps at once.
 *
 * Source    Schulman et al. 2016, arXiv:1506.02438, eq. 11, 12 and 16.
 * Types     acc_t is float (for float, half and bfloat16 storage) or double.
 * Reference rlaif_pl/ops/reference.py::gae; tests/ops/test_gae.py.
 */
#pragma once
#include "host_device.h"

namespace rlaif_pl {

template <typename acc_t> struct Affine {
  acc_t scale;
  acc_t shift;

  RLAIF_PL_HD acc_t operator()(acc_t x) const { return shift + scale * x; }
};

/* The map that applies `inner` first and `outer` to its result. */
template <typename acc_t>
RLAIF_PL_HD Affine<acc_t> compose(Affine<acc_t> outer, Affine<acc_t> inner) {
  return {outer.scale * inner.scale, outer(inner.shift)};
}

/* The map of one step: advantage after it -> advantage at it. */
template <typename acc_t>
RLAIF_PL_HD Affine<acc_t> gae_step(acc_t reward, acc_t value, acc_t next_value, acc_t gamma,
                                   acc_t decay) {
  return {decay, reward + gamma * next_value - value};
}

} // namespace rlaif_pl
