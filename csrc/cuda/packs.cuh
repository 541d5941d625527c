/* packs.cuh: the entries of a row, 16 bytes at a time. No torch header. */
#pragma once
#include <cstdint>

namespace rlaif_pl {

/* What a thread loads or stores by one instruction: 4 floats, 8 halves. */
template <typename scalar_t> struct alignas(16) Pack {
  scalar_t entries[16 / sizeof(scalar_t)];
};

/* Call visit(entries, index of the first) on every entry of a row of n, each thread of the block on
 * its share: packs where they are aligned, single entries before and after. `entries` is an array,
 * a copy that is stored back if `writes`. */
template <bool writes, typename scalar_t, typename Visit>
__device__ __forceinline__ void visit_packs(scalar_t *row, int64_t n, const Visit &visit) {
  constexpr int64_t size = sizeof(Pack<scalar_t>) / sizeof(scalar_t);
  const auto past =
      static_cast<int64_t>(reinterpret_cast<uintptr_t>(row) / sizeof(scalar_t) % size);
  const int64_t to_aligned = (size - past) % size;
  const int64_t head = to_aligned < n ? to_aligned : n;
  const int64_t packs = (n - head) / size;
  auto *aligned = reinterpret_cast<Pack<scalar_t> *>(row + head);
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    Pack<scalar_t> pack = aligned[i];
    visit(pack.entries, head + i * size);
    if (writes)
      aligned[i] = pack;
  }
  for (int64_t i = threadIdx.x; i < n - packs * size; i += blockDim.x) {
    const int64_t at = i < head ? i : i + packs * size;
    scalar_t single[1] = {row[at]};
    visit(single, at);
    if (writes)
      row[at] = single[0];
  }
}

} // namespace rlaif_pl
