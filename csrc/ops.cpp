/* ops.cpp: binds the kernels to the schemas that rlaif_pl/ops/_library.py declares.
 *
 * Stable ABI only (torch/csrc/stable), so one build serves torch 2.10 and everything after it.
 * Fake kernels and autograd live in Python; nothing is declared twice.
 */
#include <torch/csrc/stable/library.h>

#include "launchers.h"

#define RLAIF_PL_BIND(device)                                                                      \
  m.impl("gae", TORCH_BOX(&rlaif_pl::gae_##device));                                               \
  m.impl("kl_gae", TORCH_BOX(&rlaif_pl::kl_gae_##device));                                         \
  m.impl("pairwise_ce_fwd", TORCH_BOX(&rlaif_pl::pairwise_ce_fwd_##device));                       \
  m.impl("pairwise_ce_bwd", TORCH_BOX(&rlaif_pl::pairwise_ce_bwd_##device));                       \
  m.impl("online_softmax_update_", TORCH_BOX(&rlaif_pl::online_softmax_update_##device));          \
  m.impl("online_softmax_backward_", TORCH_BOX(&rlaif_pl::online_softmax_backward_##device));

STABLE_TORCH_LIBRARY_IMPL(rlaif_pl, CPU, m){RLAIF_PL_BIND(cpu)}

#ifdef RLAIF_PL_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(rlaif_pl, CUDA, m) {
  RLAIF_PL_BIND(cuda)
}
#endif
