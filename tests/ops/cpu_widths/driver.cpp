/* driver.cpp: a block of a row against the recurrence in double, one step at a time. Built once for
 * each width of vector. A wrong number or a read outside an array (under the address sanitizer) is
 * an error.
 *
 * Every array has a heap block of exactly its size.
 */
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "../../../csrc/cpu/gae_block.h"

namespace {

using namespace rlaif_pl;
using Array = std::unique_ptr<float[]>;
constexpr float kGamma = 0.97f, kLam = 0.92f, kDecay = kGamma * kLam, kBeta = 0.1f;
constexpr float kScore = 2, kNext = 0.7f, kCarry = 0.3f;

Array random_array(int64_t n) {
  auto x = std::make_unique<float[]>(n);
  for (int64_t i = 0; i < n; ++i)
    x[i] = static_cast<float>(std::rand() % 2001 - 1000) / 500;
  return x;
}

void check(const char *what, int64_t n, double got, double want) {
  if (std::fabs(got - want) <= 1e-4 * (1 + std::fabs(want)))
    return;
  std::fprintf(stderr, "%s of %lld steps: got %g, want %g\n", what, static_cast<long long>(n), got,
               want);
  std::exit(1);
}

void try_block(int64_t n, bool shaped) {
  const Array reward = random_array(n), reference = random_array(n), value = random_array(n);
  const Array advantages = random_array(n), returns = random_array(n);
  const Coefficients<float> by(kGamma, kLam, kBeta);
  const Block<float> block{reward.get(),  shaped ? reference.get() : nullptr,
                           value.get(),   advantages.get(),
                           returns.get(), kNext,
                           kCarry,        kScore};
  const RowSums<float> sums = any_block(block, by, n);
  double carry = kCarry, next = kNext, kl = 0, sum = 0, squares = 0;
  for (int64_t t = n - 1; t >= 0; --t) {
    const double ratio = static_cast<double>(reward[t]) - reference[t];
    const double r = (shaped ? -kBeta * ratio : reward[t]) + (t == n - 1 ? kScore : 0);
    carry = r + kGamma * next - value[t] + kDecay * carry;
    next = value[t];
    kl += ratio, sum += carry, squares += carry * carry;
    check("advantage", n, advantages[t], carry);
    check("return", n, returns[t], carry + value[t]);
  }
  if (shaped) {
    check("kl", n, sums.kl, kl);
    check("sum", n, sums.sum, sum);
    check("squares", n, sums.squares, squares);
  }
}

} // namespace

int main() {
  for (int64_t n = 1; n <= kSteps; n += n < 70 ? 1 : 106)
    for (const bool shaped : {false, true})
      try_block(n, shaped);
  return 0;
}
