/* outputs.h: memory for what a kernel writes.
 *
 * torch::stable::new_empty asks the dispatcher by name for each tensor, which for a few pairs takes
 * longer than the kernel. The allocator is called directly here, by a function of the same stable
 * ABI.
 */
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstdint>
#include <optional>

namespace rlaif_pl {

/* A contiguous tensor of at most two dimensions on the device of `like`, in its dtype or another.
 * What it holds is left open. */
inline torch::stable::Tensor
empty(const torch::stable::Tensor &like, torch::headeronly::IntHeaderOnlyArrayRef sizes,
      std::optional<torch::headeronly::ScalarType> dtype = std::nullopt) {
  const auto dims = static_cast<int64_t>(sizes.size());
  STD_TORCH_CHECK(dims <= 2, "empty: at most two dimensions, got ", dims);
  const int64_t strides[2] = {dims == 2 ? (sizes[1] > 0 ? sizes[1] : 1) : 1, 1};
  int32_t type = 0, device = 0, index = 0;
  if (dtype.has_value())
    type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(*dtype));
  else
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dims, sizes.data(), strides, type, device, index, &made));
  return torch::stable::Tensor(made);
}

} // namespace rlaif_pl
