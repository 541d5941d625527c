/* gae_block.h: advantages of one block of a row by vector code. No torch header.
 *
 * A row is taken in blocks of kSteps from its end, a block in vectors. In registers, a vector of
 * deltas becomes x[t] = sum over k of decay^k delta[t + k], as far as the vector goes, in log2(lanes)
 * steps; then A[t] = x[t] + decay^(steps to the vector's end) * (the advantage there). Only that one
 * number is waited for: a multiplication and an addition a vector. A NaN reaches earlier steps only.
 * tests/ops/cpu_widths runs every width of vector, whichever this processor is given.
 */
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "vector_math.h"

namespace rlaif_pl {

constexpr int64_t kSteps = 1024; // of a block: float sums no longer than this
constexpr int kMostLanes = 16;

template <typename acc_t> struct Coefficients {
  acc_t gamma, beta;
  acc_t decay[kMostLanes + 1]; // powers of gamma * lam
};

template <typename acc_t> struct RowSums {
  acc_t kl, sum, squares;
};

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
    acc_t room[lanes] = {};
    for (int64_t i = 0; i < n; ++i)
      room[i] = x[i];
    return load(room);
  }

  static RLAIF_PL_INLINE void store(acc_t *x, vector v, int64_t n) {
    if (n == lanes)
      return store(x, v);
    acc_t room[lanes];
    store(room, v);
    for (int64_t i = 0; i < n; ++i)
      x[i] = room[i];
  }

  static RLAIF_PL_INLINE acc_t sum(vector v) {
    acc_t sum = v[0];
    for (int i = 1; i < lanes; ++i)
      sum += v[i];
    return sum;
  }

  /* Lane i of the result is lane i + by, or 0 beyond the last. */
  template <int by> static RLAIF_PL_INLINE vector later(vector v) {
#ifdef RLAIF_PL_TARGET
    if constexpr (sizeof(vector) == 64 && sizeof(acc_t) == 4) {
      vector moved; // GCC takes vpermt2ps, which needs an index and twice the time
      __asm__("valignd %3, %1, %2, %0" : "=v"(moved) : "v"(v), "v"(vector{}), "i"(by));
      return moved;
    }
#endif
    return later<by>(v, std::make_integer_sequence<int, lanes>{});
  }

private:
  template <int by, int... lane>
  static RLAIF_PL_INLINE vector later(vector v, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(v, vector{}, (lane + by)...);
  }
};

/* What passes from a vector to the one before it in time, and what is added up on the way. */
template <bool shaped, int lanes, typename acc_t> struct Scan {
  using Lane = Lanes<acc_t, lanes>;
  using vector = typename Lane::vector;
  Coefficients<acc_t> by;
  vector reach;    // powers of the decay from each lane to the advantage after the vector
  acc_t carry = 0; // the advantage after the vector
  vector gap{}, sum{}, squares{};

  explicit RLAIF_PL_INLINE Scan(const Coefficients<acc_t> &by) : by(by) {
    for (int i = 0; i < lanes; ++i)
      reach[i] = by.decay[lanes - i];
  }

  /* Widen x[i], a sum over `width` lanes from i on, to all of them. */
  template <int width> RLAIF_PL_INLINE vector widen(vector x) const {
    if constexpr (width < lanes)
      return widen<2 * width>(x + by.decay[width] * Lane::template later<width>(x));
    else
      return x;
  }

  /* Advantages of one vector. A reward is -beta * (reward - reference) if `shaped`. */
  RLAIF_PL_INLINE vector operator()(vector reward, vector reference, vector value, vector next,
                                    vector extra) {
    vector delta = reward;
    if constexpr (shaped) {
      gap += reward - reference;
      delta = -by.beta * (reward - reference);
    }
    delta += extra + by.gamma * next - value;
    const vector x = widen<1>(delta);
    const vector advantages = x + reach * carry;
    carry = x[0] + by.decay[lanes] * carry;
    if constexpr (shaped) {
      sum += advantages;
      squares += advantages * advantages;
    }
    return advantages;
  }
};

/* One block of a row. Arrays have n entries; next_value and carry, an advantage, come after. */
template <typename acc_t> struct Block {
  const acc_t *reward, *reference, *value; // reference: or null
  acc_t *advantages, *returns;
  acc_t next_value, carry, score; // the score joins the block's last step
  int64_t ahead; // entries from this block's end to the end of the one taken next; 0: unknown
};

/* Ask for what the next block has in the place of entry i. Rows are taken from their ends, so the
 * processor's own prefetching, which follows a page, starts anew with each row and comes too late.
 * An address is never read through: it may lie outside the arrays. */
template <bool shaped, typename acc_t>
RLAIF_PL_INLINE void fetch_ahead(const Block<acc_t> &block, int64_t i) {
  const auto at = [&](const acc_t *x) {
    const int64_t bytes = (i + block.ahead) * static_cast<int64_t>(sizeof(acc_t));
    return reinterpret_cast<const void *>(reinterpret_cast<uintptr_t>(x) +
                                          static_cast<uintptr_t>(bytes));
  };
  constexpr int to_read = 0, to_write = 1, second_level = 2;
  __builtin_prefetch(at(block.reward), to_read, second_level);
  __builtin_prefetch(at(block.value), to_read, second_level);
  if constexpr (shaped)
    __builtin_prefetch(at(block.reference), to_read, second_level);
  __builtin_prefetch(at(block.advantages), to_write, second_level);
  __builtin_prefetch(at(block.returns), to_write, second_level);
}

/* The block's last vector may be short: its other lanes are then 0 and
 * add nothing. What comes after the block is part of its last step, not of the first carry. */
template <bool shaped, int lanes, typename acc_t>
RLAIF_PL_INLINE RowSums<acc_t> block_body(const Block<acc_t> &block, const Coefficients<acc_t> &by,
                                          int64_t n) {
  using Lane = Lanes<acc_t, lanes>;
  using vector = typename Lane::vector;
  Scan<shaped, lanes, acc_t> scan(by);
  const int64_t rest = (n - 1) % lanes + 1, end = n - rest;
  const acc_t *reward = block.reward, *reference = block.reference, *value = block.value;
  acc_t *advantages = block.advantages, *returns = block.returns;
  fetch_ahead<shaped>(block, end);
  acc_t extra[lanes] = {};
  extra[rest - 1] = block.score + by.gamma * block.next_value + by.decay[1] * block.carry;
  const vector ends = Lane::load(value + end, rest);
  const vector of_rest =
      scan(Lane::load(reward + end, rest), shaped ? Lane::load(reference + end, rest) : vector{},
           ends, Lane::template later<1>(ends), Lane::load(extra));
  Lane::store(advantages + end, of_rest, rest);
  Lane::store(returns + end, of_rest + ends, rest);
#pragma GCC unroll 4
  for (int64_t i = end - lanes; i >= 0; i -= lanes) {
    fetch_ahead<shaped>(block, i);
    const vector values = Lane::load(value + i);
    const vector references = shaped ? Lane::load(reference + i) : vector{};
    const vector found = scan(Lane::load(reward + i), references, values,
                              Lane::load(value + i + 1), vector{});
    Lane::store(advantages + i, found);
    Lane::store(returns + i, found + values);
  }
  return {Lane::sum(scan.gap), Lane::sum(scan.sum), Lane::sum(scan.squares)};
}

template <int lanes, typename acc_t>
RLAIF_PL_INLINE RowSums<acc_t> any_block(const Block<acc_t> &block, const Coefficients<acc_t> &by,
                                         int64_t n) {
  return block.reference == nullptr ? block_body<false, lanes>(block, by, n)
                                    : block_body<true, lanes>(block, by, n);
}

using FloatBlock = RowSums<float> (*)(const Block<float> &, const Coefficients<float> &, int64_t);

inline RowSums<float> block_4(const Block<float> &block, const Coefficients<float> &by, int64_t n) {
  return any_block<4>(block, by, n);
}

#ifdef RLAIF_PL_TARGET
RLAIF_PL_TARGET("x86-64-v3") inline
RowSums<float> block_8(const Block<float> &block, const Coefficients<float> &by, int64_t n) {
  return any_block<8>(block, by, n);
}

RLAIF_PL_TARGET("x86-64-v4") inline
RowSums<float> block_16(const Block<float> &block, const Coefficients<float> &by, int64_t n) {
  return any_block<16>(block, by, n);
}

inline FloatBlock choose_block() {
  if (__builtin_cpu_supports("x86-64-v4"))
    return block_16;
  return __builtin_cpu_supports("x86-64-v3") ? block_8 : block_4;
}
#else
inline FloatBlock choose_block() { return block_4; }
#endif

inline RowSums<float> run_block(const Block<float> &block, const Coefficients<float> &by,
                                int64_t n) {
  static const FloatBlock chosen = choose_block();
  return chosen(block, by, n);
}
inline RowSums<double> run_block(const Block<double> &block, const Coefficients<double> &by,
                                 int64_t n) {
  return any_block<2>(block, by, n);
}

} // namespace rlaif_pl
