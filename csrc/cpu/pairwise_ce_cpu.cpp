/* pairwise_ce_cpu.cpp: threads over blocks of pairs, vector code within a block.
 *
 * Shapes    first, second, target, weight, loss, dmargin: (N,) contiguous; total: (); sums: (3,).
 * Sums      a block adds up in acc_t, blocks are added in order in double: the number of threads
 *           changes nothing.
 * Cost      one pass: reads 3N or 4N elements, writes 2N, or N where only sums are wanted; the
 *           backward pass reads N or 2N and writes 2N.
 */
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "../checks.h"
#include "../launchers.h"
#include "../math/pairwise_ce.h"
#include "../outputs.h"
#include "vector_math.h"

namespace rlaif_pl {

constexpr int64_t kPairsPerBlock = 1024;
constexpr int64_t kBlocksPerTask = 8;

template <typename acc_t> struct PairBlock {
  const acc_t *first, *second, *target, *weight; // weight may be null: ones
  acc_t *loss, *slope;                           // loss may be null: only the sums are wanted
  acc_t sums[kPairwiseSums];
  bool is_bad; // a target or weight is out of range
};

template <bool weighted, bool each, typename acc_t>
RLAIF_PL_INLINE void pairwise_pairs(PairBlock<acc_t> &block, int64_t n) {
  constexpr acc_t largest = std::numeric_limits<acc_t>::max();
  const acc_t *first = block.first, *second = block.second, *target = block.target,
              *weight = block.weight;
  acc_t *loss = block.loss, *slope = block.slope;
  acc_t sum_loss = 0, sum_weight = 0, sum_correct = 0, sum_margin = 0, bad = 0;
#pragma omp simd reduction(+ : sum_loss, sum_weight, sum_correct, sum_margin, bad)
  for (int64_t i = 0; i < n; ++i) {
    const acc_t margin = first[i] - second[i], p = target[i];
    const acc_t w = weighted ? weight[i] : acc_t(1);
    const acc_t small = exp_below_zero(margin < acc_t(0) ? margin : -margin);
    const auto pair = pairwise_ce(margin, p, w, small, log1p_unit(small));
    if constexpr (each)
      loss[i] = pair.loss;
    slope[i] = pair.slope;
    const acc_t range =
        (p >= acc_t(0) ? acc_t(0) : acc_t(1)) + (p <= acc_t(1) ? acc_t(0) : acc_t(1)) +
        (w >= acc_t(0) ? acc_t(0) : acc_t(1)) + (w <= largest ? acc_t(0) : acc_t(1));
    bad += range;
    sum_loss += pair.loss;
    sum_weight += w;
    sum_correct += w * pairwise_correct(margin, p);
    sum_margin += w == acc_t(0) ? acc_t(0) : w * margin;
  }
  block.sums[kSumLoss] = sum_loss;
  block.sums[kSumWeight] = sum_weight;
  block.sums[kSumCorrect] = sum_correct;
  block.sums[kSumMargin] = sum_margin;
  block.is_bad = bad != acc_t(0);
}

template <bool weighted, typename acc_t>
RLAIF_PL_INLINE void pairwise_block_body(PairBlock<acc_t> &block, int64_t n) {
  if (block.loss == nullptr)
    pairwise_pairs<weighted, false>(block, n);
  else
    pairwise_pairs<weighted, true>(block, n);
}

/* first = scale * grad * slope, second = -first; one grad stands for all if `stride` is 0. */
RLAIF_PL_CLONES void pairwise_grads(float *__restrict__ first, float *__restrict__ second,
                                    const float *__restrict__ slope, const float *__restrict__ grad,
                                    float scale, int64_t stride, int64_t n) {
  if (stride == 0) {
    const float all = scale * *grad;
    for (int64_t i = 0; i < n; ++i) {
      first[i] = all * slope[i];
      second[i] = -all * slope[i];
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      first[i] = scale * grad[i] * slope[i];
      second[i] = -first[i];
    }
  }
}

RLAIF_PL_CLONES void pairwise_block(PairBlock<float> &block, int64_t n) {
  pairwise_block_body<false>(block, n);
}
RLAIF_PL_CLONES void pairwise_block_weighted(PairBlock<float> &block, int64_t n) {
  pairwise_block_body<true>(block, n);
}
inline void pairwise_block(PairBlock<double> &block, int64_t n) {
  pairwise_block_body<false>(block, n);
}
inline void pairwise_block_weighted(PairBlock<double> &block, int64_t n) {
  pairwise_block_body<true>(block, n);
}

template <typename scalar_t> struct Pairs {
  using acc_t = accumulator_t<scalar_t>;
  const scalar_t *first, *second;
  const acc_t *target, *weight;
  scalar_t *loss, *slope;
  int64_t N;

  /* Compute block `b`; scalars narrower than acc_t pass through a buffer. */
  PairBlock<acc_t> operator()(int64_t b) const {
    constexpr bool is_narrow = !std::is_same_v<scalar_t, acc_t>;
    acc_t room[4][is_narrow ? kPairsPerBlock : 1];
    const int64_t begin = b * kPairsPerBlock, n = std::min(kPairsPerBlock, N - begin);
    PairBlock<acc_t> block{};
    block.first = as_accumulator<acc_t>(first + begin, room[0], n);
    block.second = as_accumulator<acc_t>(second + begin, room[1], n);
    block.target = target + begin;
    if constexpr (is_narrow)
      block.slope = room[3];
    else
      block.slope = slope + begin;
    if (loss != nullptr) {
      if constexpr (is_narrow)
        block.loss = room[2];
      else
        block.loss = loss + begin;
    }
    if (weight == nullptr) {
      pairwise_block(block, n);
    } else {
      block.weight = weight + begin;
      pairwise_block_weighted(block, n);
    }
    if constexpr (is_narrow) {
      if (loss != nullptr)
        convert(loss + begin, room[2], n);
      convert(slope + begin, room[3], n);
    }
    return block;
  }
};

/* Run all blocks; returns the sums. An error names no index: the caller looks for it. */
template <typename scalar_t>
std::array<double, kPairwiseSums> run_pairs(const Pairs<scalar_t> &pairs) {
  std::array<double, kPairwiseSums> sums{};
  bool is_bad = false;
  const auto add = [&](const auto &block) {
    for (int k = 0; k < kPairwiseSums; ++k)
      sums[k] += static_cast<double>(block.sums[k]);
    is_bad |= block.is_bad;
  };
  const int64_t num_blocks = (pairs.N + kPairsPerBlock - 1) / kPairsPerBlock;
  if (num_blocks <= kBlocksPerTask) { // no threads and no memory for a small batch
    for (int64_t b = 0; b < num_blocks; ++b)
      add(pairs(b));
  } else {
    std::vector<PairBlock<accumulator_t<scalar_t>>> blocks(num_blocks);
    torch::stable::parallel_for(0, num_blocks, kBlocksPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        blocks[b] = pairs(b);
    });
    for (const auto &block : blocks)
      add(block);
  }
  STD_TORCH_CHECK(!is_bad, "pairwise_ce_fwd: a target is outside [0, 1] or a weight is negative "
                           "or not finite");
  return sums;
}

PairwiseOutputs pairwise_ce_fwd_cpu(const Tensor &first, const Tensor &second, const Tensor &target,
                                    const std::optional<Tensor> &weight, bool each) {
  check_pairwise_ce(first, second, target, weight);
  const auto f = packed(first), s = packed(second), p = packed(target);
  const std::optional<Tensor> w = packed(weight);
  auto loss = empty(f, {each ? f.numel() : 0});
  auto dmargin = empty(f, f.sizes());
  auto total = empty(p, {});
  auto sums = empty(p, {kPairwiseSums - 1}, ScalarType::Double);
  visit_floating("pairwise_ce_fwd", f.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    const auto all = run_pairs(Pairs<scalar_t>{
        f.const_data_ptr<scalar_t>(), s.const_data_ptr<scalar_t>(), p.const_data_ptr<acc_t>(),
        w.has_value() ? w->const_data_ptr<acc_t>() : nullptr,
        each ? loss.mutable_data_ptr<scalar_t>() : nullptr, dmargin.mutable_data_ptr<scalar_t>(),
        f.numel()});
    *total.mutable_data_ptr<acc_t>() = static_cast<acc_t>(all[kSumLoss]);
    std::copy(all.begin() + 1, all.end(), sums.mutable_data_ptr<double>());
  });
  return {loss, dmargin, total, sums};
}

TensorPair pairwise_ce_bwd_cpu(const Tensor &dmargin, const Tensor &grad, double scale) {
  check_pairwise_ce_bwd(dmargin, grad);
  auto first = empty(dmargin, dmargin.sizes());
  auto second = empty(dmargin, dmargin.sizes());
  const int64_t stride = grad.dim() == 0 ? 0 : grad.stride(0);
  visit_floating("pairwise_ce_bwd", dmargin.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using acc_t = accumulator_t<scalar_t>;
    const scalar_t *slope = dmargin.const_data_ptr<scalar_t>(),
                   *g = grad.const_data_ptr<scalar_t>();
    scalar_t *one = first.mutable_data_ptr<scalar_t>(), *two = second.mutable_data_ptr<scalar_t>();
    const auto run = [&](int64_t begin, int64_t end) {
      if constexpr (std::is_same_v<scalar_t, float>) {
        if (stride == 0 || stride == 1)
          return pairwise_grads(one + begin, two + begin, slope + begin, g + begin * stride,
                                static_cast<float>(scale), stride, end - begin);
      }
      for (int64_t i = begin; i < end; ++i) {
        const acc_t found = static_cast<acc_t>(scale) * static_cast<acc_t>(g[i * stride]) *
                            static_cast<acc_t>(slope[i]);
        one[i] = static_cast<scalar_t>(found);
        two[i] = static_cast<scalar_t>(-found);
      }
    };
    torch::stable::parallel_for(0, dmargin.numel(), kPairsPerBlock * kBlocksPerTask, run);
  });
  return {first, second};
}

} // namespace rlaif_pl
