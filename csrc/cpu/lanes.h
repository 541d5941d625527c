/* lanes.h: as many numbers as the processor computes at once, as a value. No torch header. */
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#include "vector_math.h"

namespace rlaif_pl {

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi" // vectors are returned by inlined functions only
#endif

/* `lanes` numbers as one value of the processor. */
template <typename acc_t, int lanes> struct Lanes {
  typedef acc_t vector __attribute__((vector_size(lanes * sizeof(acc_t))));

  static RLAIF_PL_INLINE vector load(const acc_t *x) {
    vector v;
    std::memcpy(&v, x, sizeof(v));
    return v;
  }

  static RLAIF_PL_INLINE void store(acc_t *x, vector v) { std::memcpy(x, &v, sizeof(v)); }

  /* The first n lanes, 1 to all of them; the others are 0. */
  static RLAIF_PL_INLINE vector load(const acc_t *x, int64_t n) {
    if (n == lanes)
      return load(x);
#ifdef RLAIF_PL_TARGET
    if constexpr (kIsFull) {
      vector v;
      __asm__("vmovups %2, %0%{%1%}%{z%}"
              : "=v"(v)
              : "Yk"(first(n)), "m"(*reinterpret_cast<const acc_t(*)[lanes]>(x)));
      return v;
    }
#endif
    acc_t room[lanes] = {};
    for (int64_t i = 0; i < n; ++i)
      room[i] = x[i];
    return load(room);
  }

  static RLAIF_PL_INLINE void store(acc_t *x, vector v, int64_t n) {
    if (n == lanes)
      return store(x, v);
#ifdef RLAIF_PL_TARGET
    if constexpr (kIsFull) {
      __asm__("vmovups %2, %0%{%1%}"
              : "+m"(*reinterpret_cast<acc_t(*)[lanes]>(x))
              : "Yk"(first(n)), "v"(v));
      return;
    }
#endif
    acc_t room[lanes];
    store(room, v);
    for (int64_t i = 0; i < n; ++i)
      x[i] = room[i];
  }

  template <int by = lanes / 2> static RLAIF_PL_INLINE acc_t sum(vector v) {
    if constexpr (by > 0)
      return sum<by / 2>(v + later<by>(v));
    else
      return v[0];
  }

  /* Lane i of the result is lane i + by, or 0 beyond the last. */
  template <int by> static RLAIF_PL_INLINE vector later(vector v) {
#ifdef RLAIF_PL_TARGET
    if constexpr (kIsFull) {
      vector moved; // GCC takes vpermt2ps, which needs an index and twice the time
      __asm__("valignd %3, %1, %2, %0" : "=v"(moved) : "v"(v), "v"(vector{}), "i"(by));
      return moved;
    }
#endif
    return later<by>(v, std::make_integer_sequence<int, lanes>{});
  }

private:
  /* Whether AVX-512 is what this is compiled for: the instructions below are written by name,
   * since GCC's intrinsics may not be called in a template without a target. */
  static constexpr bool kIsFull = sizeof(vector) == 64 && sizeof(acc_t) == 4;

  static RLAIF_PL_INLINE uint16_t first(int64_t n) {
    return static_cast<uint16_t>((1u << n) - 1);
  }

  template <int by, int... lane>
  static RLAIF_PL_INLINE vector later(vector v, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(v, vector{}, (lane + by)...);
  }
};

} // namespace rlaif_pl
