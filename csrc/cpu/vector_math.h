/* vector_math.h: loops that the compiler turns into vector code, and the functions they call.
 *
 * RLAIF_PL_CLONES compiles a function for AVX-512, for AVX2 and for any x86-64, and picks one when
 * the library loads; elsewhere it does nothing. Such a function must not be a template, so bodies
 * are templates marked RLAIF_PL_INLINE and one clone calls each. No libm call in a body: it would
 * stop vectorization.
 *
 * Errors of the float functions, against the exact value: exp_below_zero 2 ulp, log1p_unit 3 ulp.
 */
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) &&   \
    __GNUC__ >= 12
#define RLAIF_PL_CLONES                                                                            \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define RLAIF_PL_CLONES
#endif
#define RLAIF_PL_INLINE inline __attribute__((always_inline))

namespace rlaif_pl {

/* exp(x) for x <= 0; 0 below the smallest normal number, NaN for NaN. */
RLAIF_PL_INLINE float exp_below_zero(float x) {
  constexpr float kSmallest = -87.3f;
  constexpr float kRound = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer
  const float bounded = x < kSmallest ? kSmallest : x;
  const float shifted = bounded * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (bounded - n * 0.693145752f) - n * 1.42860677e-6f; // |r| <= log(2) / 2
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const uint32_t exponent = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound);
  const float value = p * std::bit_cast<float>((exponent + 127u) << 23);
  return x < kSmallest ? 0.0f : value;
}

RLAIF_PL_INLINE double exp_below_zero(double x) { return std::exp(x); }

/* log(1 + x) for x in [0, 1] by the series of 2 atanh(x / (2 + x)). */
RLAIF_PL_INLINE float log1p_unit(float x) {
  const float z = x / (2.0f + x), q = z * z; // q <= 1/9, so the ninth term is below 2e-9
  float p = 1.0f / 15;
  p = p * q + 1.0f / 13;
  p = p * q + 1.0f / 11;
  p = p * q + 1.0f / 9;
  p = p * q + 1.0f / 7;
  p = p * q + 1.0f / 5;
  p = p * q + 1.0f / 3;
  return 2.0f * z + 2.0f * z * (q * p);
}

RLAIF_PL_INLINE double log1p_unit(double x) { return std::log1p(x); }

/* Copy with a change of type: half and bfloat16 are computed on as float. */
template <typename to_t, typename from_t>
RLAIF_PL_INLINE void convert(to_t *to, const from_t *from, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    to[i] = static_cast<to_t>(from[i]);
}

/* `from` as accumulator numbers: itself where the types agree, else converted into `room`. */
template <typename acc_t, typename scalar_t>
inline const acc_t *as_accumulator(const scalar_t *from, acc_t *room, int64_t n) {
  if constexpr (std::is_same_v<acc_t, scalar_t>) {
    return from;
  } else {
    convert(room, from, n);
    return room;
  }
}

} // namespace rlaif_pl
