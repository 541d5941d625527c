/* warp.cuh: reductions over the 32 lanes of a warp. No torch header. */
#pragma once

namespace rlaif_pl {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

/* Sum over the warp, in every lane; the same tree each time, so the same rounding. */
template <typename T> __device__ __forceinline__ T warp_sum(T mine) {
#pragma unroll
  for (int lane = kWarp / 2; lane > 0; lane /= 2)
    mine += __shfl_xor_sync(kAllLanes, mine, lane);
  return mine;
}

} // namespace rlaif_pl
