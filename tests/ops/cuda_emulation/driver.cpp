/* driver.cpp: runs one GPU kernel on the host. Arrays come in on stdin and go out on stdout, raw.
 *
 *   driver gae                     DTYPE BLOCKS N T GAMMA LAM
 *          rewards values lengths bootstrap
 *   driver kl_gae              DTYPE BLOCKS N T BETA GAMMA LAM
 *          logprobs ref_logprobs values scores bootstrap lengths
 *   driver pairwise_ce             DTYPE BLOCKS N
 *          first second target weight
 *   driver pairwise_ce_backward    DTYPE BLOCKS N GRAD_STRIDE SCALE
 *          dmargin grad
 *   driver online_softmax_update   DTYPE BLOCKS N B START INV_TEMPERATURE SOFTCAP WEIGHTED
 *          logits bias state tokens
 *   driver online_softmax_backward DTYPE BLOCKS N B START INV_TEMPERATURE SOFTCAP
 *          logits bias rows tokens
 *
 * DTYPE is float, double, half or bfloat16, by torch's own types. Every array has a heap block of
 * exactly its size, so the address sanitizer sees any step outside.
 */
#include "cuda_on_host.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../../../csrc/cuda/gae_kernel.cuh"
#include "../../../csrc/cuda/kl_gae_kernel.cuh"
#include "../../../csrc/cuda/pairwise_ce_kernel.cuh"
#include "../../../csrc/cuda/softmax_kernel.cuh"

#include <string>
#include <type_traits>

namespace {

using namespace rlaif_pl;

template <typename scalar_t>
using accumulator_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

template <typename T> std::unique_ptr<T[]> read_array(int64_t size) {
  auto array = std::make_unique<T[]>(size);
  if (std::fread(array.get(), sizeof(T), size, stdin) != static_cast<size_t>(size))
    std::abort();
  return array;
}

template <typename T> void write_array(const std::unique_ptr<T[]> &array, int64_t size) {
  std::fwrite(array.get(), sizeof(T), size, stdout);
}

struct Arguments {
  char **rest;
  int64_t integer(int k) const { return std::atoll(rest[k]); }
  double number(int k) const { return std::atof(rest[k]); }
};

template <typename scalar_t> void run_gae(unsigned blocks, Arguments given) {
  using acc_t = accumulator_t<scalar_t>;
  const int64_t N = given.integer(0), T = given.integer(1);
  const auto gamma = static_cast<acc_t>(given.number(2));
  const auto decay = static_cast<acc_t>(given.number(2) * given.number(3));
  const auto rewards = read_array<scalar_t>(N * T), values = read_array<scalar_t>(N * T);
  const auto lengths = read_array<int64_t>(N);
  const auto bootstrap = read_array<scalar_t>(N);
  const auto advantages = std::make_unique<scalar_t[]>(N * T);
  const auto returns = std::make_unique<scalar_t[]>(N * T);
  launch(blocks, kGaeThreads, [&] {
    gae_kernel<acc_t, scalar_t>(rewards.get(), values.get(), lengths.get(), bootstrap.get(),
                                advantages.get(), returns.get(), N, T, gamma, decay);
  });
  write_array(advantages, N * T);
  write_array(returns, N * T);
}

template <typename scalar_t> void run_kl_gae(unsigned blocks, Arguments given) {
  using acc_t = accumulator_t<scalar_t>;
  const int64_t N = given.integer(0), T = given.integer(1);
  const auto logprobs = read_array<scalar_t>(N * T), ref_logprobs = read_array<scalar_t>(N * T),
             values = read_array<scalar_t>(N * T), scores = read_array<scalar_t>(N),
             bootstrap = read_array<scalar_t>(N);
  const auto lengths = read_array<int64_t>(N);
  const auto advantages = std::make_unique<scalar_t[]>(N * T);
  const auto returns = std::make_unique<scalar_t[]>(N * T);
  const auto kl = std::make_unique<scalar_t[]>(N);
  const auto moments = std::make_unique<double[]>(2 * N);
  const ShapedInputs<scalar_t> in{logprobs.get(), ref_logprobs.get(), values.get(),
                                  scores.get(),   bootstrap.get(),    lengths.get()};
  const ShapedTargets<scalar_t> out{advantages.get(), returns.get(), kl.get(), moments.get()};
  launch(blocks, kGaeThreads, [&] {
    kl_gae_kernel<acc_t, scalar_t>(in, out, N, T, static_cast<acc_t>(given.number(2)),
                                   static_cast<acc_t>(given.number(3)),
                                   static_cast<acc_t>(given.number(3) * given.number(4)));
  });
  write_array(advantages, N * T);
  write_array(returns, N * T);
  write_array(kl, N);
  write_array(moments, 2 * N);
}

/* As the launcher does: the second kernel runs where there is more than one block. */
template <typename scalar_t> void run_pairwise_ce(unsigned blocks, Arguments given) {
  using acc_t = accumulator_t<scalar_t>;
  const int64_t N = given.integer(0);
  const auto first = read_array<scalar_t>(N), second = read_array<scalar_t>(N);
  const auto target = read_array<acc_t>(N), weight = read_array<acc_t>(N);
  const auto loss = std::make_unique<scalar_t[]>(N), dmargin = std::make_unique<scalar_t[]>(N);
  const auto partial = std::make_unique<double[]>(blocks > 1 ? blocks * kPairwiseSums : 0);
  const auto total = std::make_unique<acc_t[]>(1);
  const auto sums = std::make_unique<double[]>(kPairwiseSums - 1);
  launch(blocks, kPairwiseThreads, [&] {
    pairwise_ce_kernel<acc_t, scalar_t>(first.get(), second.get(), target.get(), weight.get(),
                                        loss.get(), dmargin.get(), partial.get(), total.get(),
                                        sums.get(), N);
  });
  if (blocks > 1)
    launch(1, kPairwiseThreads, [&] {
      pairwise_ce_total_kernel<acc_t>(partial.get(), blocks, total.get(), sums.get());
    });
  write_array(loss, N);
  write_array(dmargin, N);
  write_array(total, 1);
  write_array(sums, kPairwiseSums - 1);
}

template <typename scalar_t> void run_pairwise_ce_backward(unsigned blocks, Arguments given) {
  using acc_t = accumulator_t<scalar_t>;
  const int64_t N = given.integer(0), stride = given.integer(1);
  const auto dmargin = read_array<scalar_t>(N);
  const auto grad = read_array<scalar_t>((N - 1) * stride + 1);
  const auto first = std::make_unique<scalar_t[]>(N), second = std::make_unique<scalar_t[]>(N);
  launch(blocks, kPairwiseThreads, [&] {
    pairwise_ce_backward_kernel<acc_t, scalar_t>(dmargin.get(), grad.get(), stride,
                                                 static_cast<acc_t>(given.number(2)), first.get(),
                                                 second.get(), N);
  });
  write_array(first, N);
  write_array(second, N);
}

template <typename scalar_t> void run_softmax(bool is_update, unsigned blocks, Arguments given) {
  using acc_t = accumulator_t<scalar_t>;
  const int64_t N = given.integer(0), B = given.integer(1), start = given.integer(2);
  const Shape<acc_t> shape{static_cast<acc_t>(given.number(3)),
                           static_cast<acc_t>(given.number(4))};
  const int64_t columns = is_update ? kSoftmaxState : kSlopeRow;
  const auto logits = read_array<scalar_t>(N * B);
  const auto bias = read_array<acc_t>(B), rows = read_array<acc_t>(N * columns);
  const auto tokens = read_array<int64_t>(N);
  const bool weighted = is_update && given.integer(5) != 0;
  launch(blocks, kSoftmaxThreads, [&] {
    if (is_update)
      online_softmax_update_kernel<acc_t, scalar_t>(logits.get(), tokens.get(), bias.get(),
                                                    rows.get(), start, shape, weighted, N, B);
    else
      online_softmax_backward_kernel<acc_t, scalar_t>(logits.get(), tokens.get(), bias.get(),
                                                      rows.get(), start, shape, N, B);
  });
  write_array(logits, N * B);
  write_array(rows, N * columns);
}

template <typename scalar_t> int run(const std::string &op, unsigned blocks, Arguments given) {
  if (op == "gae")
    run_gae<scalar_t>(blocks, given);
  else if (op == "kl_gae")
    run_kl_gae<scalar_t>(blocks, given);
  else if (op == "pairwise_ce")
    run_pairwise_ce<scalar_t>(blocks, given);
  else if (op == "pairwise_ce_backward")
    run_pairwise_ce_backward<scalar_t>(blocks, given);
  else if (op == "online_softmax_update" || op == "online_softmax_backward")
    run_softmax<scalar_t>(op == "online_softmax_update", blocks, given);
  else
    return 2;
  return 0;
}

} // namespace

int main(int count, char **argument) {
  if (count < 5)
    return 2;
  const std::string op = argument[1], dtype = argument[2];
  const auto blocks = static_cast<unsigned>(std::atoi(argument[3]));
  const Arguments given{argument + 4};
  if (dtype == "float")
    return run<float>(op, blocks, given);
#ifndef ONLY_FLOAT // the thread sanitizer looks at one type: barriers are the same in all
  if (dtype == "double")
    return run<double>(op, blocks, given);
  if (dtype == "half")
    return run<c10::Half>(op, blocks, given);
  if (dtype == "bfloat16")
    return run<c10::BFloat16>(op, blocks, given);
#endif
  return 2;
}
