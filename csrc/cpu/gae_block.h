/* gae_block.h: advantages of one block of a row by vector code. No torch header.
 *
 * A row is taken in blocks of kSteps from its end, a block in vectors. In registers, a vector of
 * deltas becomes x[t] = sum over k of decay^k delta[t + k], as far as the vector goes, in log2(lanes)
 * steps; then A[t] = x[t] + decay^(steps to the vector's end) * (the advantage there). Only that one
 * number is waited for: a multiplication and an addition a vector. The steps of several vectors are
 * interleaved, as a pipeline. A NaN reaches earlier steps only.
 * tests/ops/cpu_widths runs every width of vector, whichever this processor is given.
 */
#pragma once
#include <bit>
#include <cstdint>

#include "lanes.h"

namespace rlaif_pl {

constexpr int64_t kSteps = 1024; // of a block: float sums no longer than this
constexpr int kMostLanes = 16;

template <typename acc_t> struct Coefficients {
  acc_t gamma, beta;
  acc_t decay[kMostLanes]; // powers of gamma * lam, from the highest to the first

  Coefficients(double gamma, double lam, double beta)
      : gamma(static_cast<acc_t>(gamma)), beta(static_cast<acc_t>(beta)) {
    double power = 1;
    for (int i = kMostLanes - 1; i >= 0; --i)
      decay[i] = static_cast<acc_t>(power *= gamma * lam);
  }

  RLAIF_PL_INLINE acc_t power(int k) const { return decay[kMostLanes - k]; }
};

template <typename acc_t> struct RowSums {
  acc_t kl, sum, squares;
};

/* What passes from a vector to the one before it in time, and what is added up on the way. */
template <bool shaped, int lanes, typename acc_t> struct Scan {
  using Lane = Lanes<acc_t, lanes>;
  using vector = typename Lane::vector;
  Coefficients<acc_t> by;
  vector reach;    // powers of the decay from each lane to the advantage after the vector
  acc_t carry = 0; // the advantage after the vector
  vector gap{}, sum{}, squares{};

  explicit RLAIF_PL_INLINE Scan(const Coefficients<acc_t> &by)
      : by(by), reach(Lane::load(by.decay + kMostLanes - lanes)) {}

  /* A reward is -beta * (reward - reference) if `shaped`. */
  RLAIF_PL_INLINE vector delta(vector reward, vector reference, vector value, vector next) {
    if constexpr (!shaped)
      return reward + by.gamma * next - value;
    gap += reward - reference;
    return by.gamma * next - value - by.beta * (reward - reference);
  }

  /* Widen x[i], a sum over `width` lanes from i on, to twice as many. */
  template <int width> RLAIF_PL_INLINE vector widen(vector x) const {
    return x + by.power(width) * Lane::template later<width>(x);
  }

  /* The same, to all lanes. */
  template <int width> RLAIF_PL_INLINE vector widen_to_all(vector x) const {
    if constexpr (width < lanes)
      return widen_to_all<2 * width>(widen<width>(x));
    else
      return x;
  }

  /* Advantages of the vector whose sums over all lanes are x. */
  RLAIF_PL_INLINE vector advantages(vector x) {
    const vector found = x + reach * carry;
    carry = x[0] + by.power(lanes) * carry;
    if constexpr (shaped) {
      sum += found;
      squares += found * found;
    }
    return found;
  }
};

/* One block of a row. Arrays have n entries; next_value and carry, an advantage, come after. */
template <typename acc_t> struct Block {
  const acc_t *reward, *reference, *value; // reference: or null
  acc_t *advantages, *returns;
  acc_t next_value, carry, score; // the score joins the block's last step
};

/* One block on its way through a scan. */
template <bool shaped, int lanes, typename acc_t> struct BlockScan {
  using Lane = Lanes<acc_t, lanes>;
  using vector = typename Lane::vector;
  static constexpr int kGroup = 2; // vectors that go side by side
  static constexpr int kStages = std::countr_zero(static_cast<unsigned>(lanes)); // of widening
  const Block<acc_t> block;
  Scan<shaped, lanes, acc_t> scan;

  RLAIF_PL_INLINE BlockScan(const Block<acc_t> &block, const Coefficients<acc_t> &by)
      : block(block), scan(by) {}

  RLAIF_PL_INLINE vector delta(int64_t i) {
    return scan.delta(Lane::load(block.reward + i),
                      shaped ? Lane::load(block.reference + i) : vector{},
                      Lane::load(block.value + i), Lane::load(block.value + i + 1));
  }

  RLAIF_PL_INLINE void finish(int64_t i, vector x) {
    const vector found = scan.advantages(x);
    Lane::store(block.advantages + i, found);
    Lane::store(block.returns + i, found + Lane::load(block.value + i));
  }

  /* The last vector, from `end` on, has `rest` entries; its other lanes are 0 and add nothing.
   * What comes after the block is part of its last step, not of the first carry. */
  RLAIF_PL_INLINE void take_rest(int64_t end, int64_t rest) {
    vector after{};
    after[rest - 1] = block.score + scan.by.gamma * block.next_value +
                      scan.by.power(1) * block.carry;
    const vector values = Lane::load(block.value + end, rest);
    const vector delta = after +
                         scan.delta(Lane::load(block.reward + end, rest),
                                    shaped ? Lane::load(block.reference + end, rest) : vector{},
                                    values, Lane::template later<1>(values));
    const vector found = scan.advantages(scan.template widen_to_all<1>(delta));
    Lane::store(block.advantages + end, found, rest);
    Lane::store(block.returns + end, found + values, rest);
  }

  /* Every stage from this one down takes what the stage before it left in the turn before. */
  template <int stage> RLAIF_PL_INLINE void advance(vector (&stages)[kStages + 1][kGroup]) const {
    if constexpr (stage > 0) {
      for (int u = 0; u < kGroup; ++u)
        stages[stage][u] = scan.template widen<1 << (stage - 1)>(stages[stage - 1][u]);
      advance<stage - 1>(stages);
    }
  }

  /* Entries before `end`, a whole number of groups, as a pipeline: in each turn one group of vectors
   * leaves, those on their way go a stage further and another enters. One vector after the other
   * would fill the processor's queues with instructions that wait for the one before them. */
  RLAIF_PL_INLINE void take_groups(int64_t end) {
    constexpr int step = kGroup * lanes, delay = (kStages + 1) * step;
    vector stages[kStages + 1][kGroup] = {};
    for (int64_t i = end - step; i >= -delay; i -= step) {
      if (i + delay < end)
        for (int u = kGroup - 1; u >= 0; --u)
          finish(i + delay + u * lanes, stages[kStages][u]);
      advance<kStages>(stages);
      if (i >= 0)
        for (int u = 0; u < kGroup; ++u)
          stages[0][u] = delta(i + u * lanes);
    }
  }

  RLAIF_PL_INLINE RowSums<acc_t> run(int64_t n) {
    const int64_t rest = (n - 1) % lanes + 1;
    int64_t end = n - rest;
    take_rest(end, rest);
    const bool is_short = end < 4 * kGroup * lanes; // filling and emptying would cost more
    const int64_t in_groups = is_short ? 0 : end - end % (kGroup * lanes);
    for (; end > in_groups; end -= lanes)
      finish(end - lanes, scan.template widen_to_all<1>(delta(end - lanes)));
    if (!is_short)
      take_groups(end);
    return {Lane::sum(scan.gap), Lane::sum(scan.sum), Lane::sum(scan.squares)};
  }
};

template <int lanes, typename acc_t>
RLAIF_PL_INLINE RowSums<acc_t> any_block(const Block<acc_t> &block, const Coefficients<acc_t> &by,
                                         int64_t n) {
  if (block.reference == nullptr)
    return BlockScan<false, lanes, acc_t>(block, by).run(n);
  return BlockScan<true, lanes, acc_t>(block, by).run(n);
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
