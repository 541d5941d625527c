/* module.cpp: the one file that knows about Python. It says how the library was built.
 *
 * Importing rlaif_pl._C also runs the static registrations in ops.cpp; tensors never pass through
 * pybind11. Read by BuildFacts in rlaif_pl/ops/_library.py.
 */
#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

#include <string>

#define RLAIF_PL_STRING_OF(...) #__VA_ARGS__
#define RLAIF_PL_STRING(...) RLAIF_PL_STRING_OF(__VA_ARGS__)

namespace {

#if defined(__clang__)
constexpr const char *kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char *kCompiler = "gcc " __VERSION__;
#else
constexpr const char *kCompiler = "unknown";
#endif

/* TORCH_TARGET_VERSION packs major, minor, ... one byte each from the top. */
std::string torch_target() {
  constexpr unsigned long long packed = TORCH_TARGET_VERSION;
  return std::to_string(packed >> 56) + "." + std::to_string((packed >> 48) & 0xff);
}

} // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of rlaif_pl";
  m.attr("compiler") = kCompiler;
  m.attr("flags") = RLAIF_PL_STRING(RLAIF_PL_FLAGS);
#ifdef RLAIF_PL_WITH_CUDA
  m.attr("with_cuda") = true;
#else
  m.attr("with_cuda") = false;
#endif
  m.attr("cuda_compiler") = RLAIF_PL_STRING(RLAIF_PL_CUDA_COMPILER);
  m.attr("cuda_archs") = RLAIF_PL_STRING(RLAIF_PL_CUDA_ARCHS);
  m.attr("torch_target") = torch_target();
  m.attr("torch_built") = TORCH_VERSION;
}
