/* driver.cpp: runs one GPU kernel on the host. Arrays come in on stdin and go out on stdout, raw.
 *
 *   driver gae         float|double BLOCKS N T GAMMA LAM   rewards values lengths bootstrap
 *   driver pairwise_ce float|double BLOCKS N               first second target weight
 *
 * Every array has a heap block of exactly its size, so the address sanitizer sees any step outside.
 */
#include "cuda_on_host.h"

#include "../../../csrc/cuda/gae_kernel.cuh"
#include "../../../csrc/cuda/pairwise_ce_kernel.cuh"

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
  launch(blocks, rlaif_pl::kPairwiseThreads, [&] {
    rlaif_pl::pairwise_ce_kernel<scalar_t, scalar_t>(
        first.get(), second.get(), target.get(), weight.get(), loss.get(), dmargin.get(), N);
  });
  write_array(loss, N);
  write_array(dmargin, N);
}

template <typename scalar_t> void run(const std::string &op, unsigned blocks, char **argument) {
  if (op == "gae")
    run_gae<scalar_t>(blocks, argument);
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
