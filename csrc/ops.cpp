/* ops.cpp: binds the kernels to the schemas that rlaif_pl/ops/_library.py declares.
 *
 * Stable ABI only (torch/csrc/stable), so one build serves torch 2.10 and everything after it.
 * Fake kernels and autograd live in Python; nothing is declared twice.
 */
#include <torch/csrc/stable/library.h>

#include "launchers.h"

STABLE_TORCH_LIBRARY_IMPL(rlaif_pl, CPU, m) {
  m.impl("gae", TORCH_BOX(&rlaif_pl::gae_cpu));
  m.impl("pairwise_ce_fwd", TORCH_BOX(&rlaif_pl::pairwise_ce_fwd_cpu));
}

#ifdef RLAIF_PL_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(rlaif_pl, CUDA, m) {
  m.impl("gae", TORCH_BOX(&rlaif_pl::gae_cuda));
  m.impl("pairwise_ce_fwd", TORCH_BOX(&rlaif_pl::pairwise_ce_fwd_cuda));
}
#endif
