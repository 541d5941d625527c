/* launch.h: where and how wide a kernel runs. */
#pragma once
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h> // STD_CUDA_KERNEL_LAUNCH_CHECK, of the launchers
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstdint>

namespace rlaif_pl {

/* The stream the caller is on, so that the kernel is ordered with the rest of the caller's work. */
inline cudaStream_t current_stream(const torch::stable::Tensor &tensor) {
  void *stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

/* Blocks for `work` items; kernels stride, so the cap bounds the launch and not the problem. */
inline unsigned num_blocks(int64_t work, int64_t per_block) {
  constexpr int64_t kMostBlocks = 1 << 16;
  return static_cast<unsigned>(std::min((work + per_block - 1) / per_block, kMostBlocks));
}

} // namespace rlaif_pl
