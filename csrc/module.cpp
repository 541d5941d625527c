/* module.cpp: the one file that knows about Python.
 *
 * Importing rlaif_pl._C runs the static registrations in ops.cpp; tensors never pass through
 * pybind11.
 */
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of rlaif_pl";
#ifdef RLAIF_PL_WITH_CUDA
  m.attr("with_cuda") = true;
#else
  m.attr("with_cuda") = false;
#endif
}
