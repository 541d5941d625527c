/* driver.cpp: runs one GPU kernel on the host. Arrays come in on stdin and go out on stdout, raw.
 *
 *   driver gae         float|double BLOCKS N T GAMMA LAM   rewards values lengths bootstrap
 *   driver shaped_gae  float|double BLOCKS N T BETA GAMMA LAM
 *          logprobs ref_logprobs values scores bootstrap lengths
 *   driver pairwise_ce float|double BLOCKS N               first second target weight
 *   driver softmax_block float|double BLOCKS N B START INV_TEMPERATURE SOFTCAP WEIGHTED
 *          logits bias state tokens
 *   driver softmax_slope float|double BLOCKS N B START INV_TEMPERATURE SOFTCAP
 *          logits bias rows tokens
 *
 * Every array has a heap block of exactly its size, so the address sanitizer sees any step outside.
 */
#include "cuda_on_host.h"

#include "../../../csrc/cuda/gae_kernel.cuh"
#include "../../../csrc/cuda/pairwise_ce_kernel.cuh"
#include "../../../csrc/cuda/shaped_gae_kernel.cuh"
#include "../../../csrc/cuda/softmax_kernel.cuh"

#include <string>

namespace {

template <typename T> std::unique_ptr<T[]> read_array(int64_t size) {
  auto array = std::make_unique<T[]>(size);
  if (std::fread(array.get(), sizeof(T), size, stdin) != static_cast<size_t>(size))
    std::abort();
  return array;
}

template <typename T> void write_array(const std::unique_ptr<T[]> &array, int64_t size) {
  std::fwrite(array.get(), sizeof(T), size, stdout);
}

template <typename scalar_t> void run_gae(unsigned blocks, char **argument) {
  const int64_t N = std::atoll(argument[0]), T = std::atoll(argument[1]);
  const auto gamma = static_cast<scalar_t>(std::atof(argument[2]));
  const auto decay = static_cast<scalar_t>(std::atof(argument[2]) * std::atof(argument[3]));
  const auto rewards = read_array<scalar_t>(N * T), values = read_array<scalar_t>(N * T);
  const auto lengths = read_array<int64_t>(N);
  const auto bootstrap = read_array<scalar_t>(N);
  const auto advantages = std::make_unique<scalar_t[]>(N * T);
  const auto returns = std::make_unique<scalar_t[]>(N * T);
  launch(blocks, rlaif_pl::kGaeThreads, [&] {
    rlaif_pl::gae_kernel<scalar_t, scalar_t>(rewards.get(), values.get(), lengths.get(),
                                             bootstrap.get(), advantages.get(), returns.get(), N, T,
                                             gamma, decay);
  });
  write_array(advantages, N * T);
  write_array(returns, N * T);
}

template <typename scalar_t> void run_pairwise_ce(unsigned blocks, char **argument) {
  const int64_t N = std::atoll(argument[0]);
  const auto first = read_array<scalar_t>(N), second = read_array<scalar_t>(N);
  const auto target = read_array<scalar_t>(N), weight = read_array<scalar_t>(N);
  const auto loss = std::make_unique<scalar_t[]>(N), dmargin = std::make_unique<scalar_t[]>(N);
  const int64_t warps = blocks * (rlaif_pl::kPairwiseThreads / 32);
  const auto partial = std::make_unique<double[]>(rlaif_pl::kPairwiseSums * warps);
  launch(blocks, rlaif_pl::kPairwiseThreads, [&] {
    rlaif_pl::pairwise_ce_kernel<scalar_t, scalar_t>(
        first.get(), second.get(), target.get(), weight.get(), loss.get(), dmargin.get(),
        partial.get(), N);
  });
  write_array(loss, N);
  write_array(dmargin, N);
  for (int k = 0; k < rlaif_pl::kPairwiseSums; ++k) {
    const auto sum = std::make_unique<double[]>(1);
    for (int64_t warp = 0; warp < warps; ++warp)
      sum[0] += partial[k * warps + warp];
    write_array(sum, 1);
  }
}

template <typename scalar_t> void run_shaped_gae(unsigned blocks, char **argument) {
  const int64_t N = std::atoll(argument[0]), T = std::atoll(argument[1]);
  const auto number = [&](int k) { return std::atof(argument[k]); };
  const auto logprobs = read_array<scalar_t>(N * T), ref_logprobs = read_array<scalar_t>(N * T),
             values = read_array<scalar_t>(N * T), scores = read_array<scalar_t>(N),
             bootstrap = read_array<scalar_t>(N);
  const auto lengths = read_array<int64_t>(N);
  const auto advantages = std::make_unique<scalar_t[]>(N * T);
  const auto returns = std::make_unique<scalar_t[]>(N * T);
  const auto kl = std::make_unique<scalar_t[]>(N);
  const auto moments = std::make_unique<double[]>(2 * N);
  const rlaif_pl::ShapedInputs<scalar_t> in{logprobs.get(), ref_logprobs.get(), values.get(),
                                            scores.get(),   bootstrap.get(),    lengths.get()};
  const rlaif_pl::ShapedTargets<scalar_t> out{advantages.get(), returns.get(), kl.get(),
                                              moments.get()};
  launch(blocks, rlaif_pl::kGaeThreads, [&] {
    rlaif_pl::shaped_gae_kernel<scalar_t, scalar_t>(
        in, out, N, T, static_cast<scalar_t>(number(2)), static_cast<scalar_t>(number(3)),
        static_cast<scalar_t>(number(3) * number(4)));
  });
  write_array(advantages, N * T);
  write_array(returns, N * T);
  write_array(kl, N);
  write_array(moments, 2 * N);
}

template <typename scalar_t> void run_softmax(bool is_block, unsigned blocks, char **argument) {
  const int64_t N = std::atoll(argument[0]), B = std::atoll(argument[1]);
  const int64_t start = std::atoll(argument[2]);
  const rlaif_pl::Shape<scalar_t> shape{static_cast<scalar_t>(std::atof(argument[3])),
                                        static_cast<scalar_t>(std::atof(argument[4]))};
  const int64_t columns = is_block ? rlaif_pl::kSoftmaxState : rlaif_pl::kSlopeRow;
  const auto logits = read_array<scalar_t>(N * B), bias = read_array<scalar_t>(B),
             rows = read_array<scalar_t>(N * columns);
  const auto tokens = read_array<int64_t>(N);
  const bool weighted = is_block && std::atoi(argument[5]) != 0;
  launch(blocks, rlaif_pl::kSoftmaxThreads, [&] {
    if (is_block)
      rlaif_pl::softmax_block_kernel<scalar_t, scalar_t>(logits.get(), tokens.get(), bias.get(),
                                                         rows.get(), start, shape, weighted, N, B);
    else
      rlaif_pl::softmax_slope_kernel<scalar_t, scalar_t>(logits.get(), tokens.get(), bias.get(),
                                                         rows.get(), start, shape, N, B);
  });
  write_array(logits, N * B);
  write_array(rows, N * columns);
}

template <typename scalar_t> void run(const std::string &op, unsigned blocks, char **argument) {
  if (op == "gae")
    run_gae<scalar_t>(blocks, argument);
  else if (op == "shaped_gae")
    run_shaped_gae<scalar_t>(blocks, argument);
  else if (op == "softmax_block" || op == "softmax_slope")
    run_softmax<scalar_t>(op == "softmax_block", blocks, argument);
  else
    run_pairwise_ce<scalar_t>(blocks, argument);
}

} // namespace

int main(int count, char **argument) {
  if (count < 5)
    return 2;
  const auto blocks = static_cast<unsigned>(std::atoi(argument[3]));
  if (std::string(argument[2]) == "double")
    run<double>(argument[1], blocks, argument + 4);
  else
    run<float>(argument[1], blocks, argument + 4);
  return 0;
}
