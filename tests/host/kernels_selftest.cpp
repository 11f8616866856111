// Every kernel of every table of the CPU without Python, for the sanitizers: odd shapes, all dtypes, buffers of exact size.
// Prints the tables that ran; one that this processor lacks is left out.
#include <cmath>
#include <cstdio>
#include <vector>

#include "../../csrc/cpu/kernels.h"

namespace ldeq::cpu {
namespace baseline {
extern const Kernels table;
}
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
}  // namespace ldeq::cpu

using namespace ldeq;
using namespace ldeq::cpu;

namespace {

int64_t bytes(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }
Type wide(Type type) { return type == Type::f64 ? Type::f64 : Type::f32; }

// Exactly as large as its elements, so that AddressSanitizer sees the first one past the end. 0x3c3c is 1.06 in float16,
// 0.0115 in float32 and in bfloat16: finite in every type.
std::vector<char> buffer(Type type, int64_t count) { return std::vector<char>(count * bytes(type), 0x3c); }

int maps(const Kernels& k, Type type, int64_t height, int64_t width, bool normalised) {
  const int64_t channels = 2, pixels = channels * height * width;
  const auto in = buffer(type, pixels), grad_heatmap = buffer(type, pixels);
  const auto grad_xy = buffer(wide(type), channels * 2), grad_std = buffer(wide(type), channels);
  auto heatmap = buffer(type, pixels), grad_in = buffer(type, pixels);
  auto xy = buffer(wide(type), channels * 2), std = buffer(wide(type), channels);
  std::vector<double> stats(channels * kStats), betas{0.3, 2.0}, grad_betas(channels);
  std::vector<char> scratch(scratch_bytes(height, width), static_cast<char>(0xff));  // NaN: a kernel fills what it reads
  const Maps m{type, height, width, channels, {1, 0, 1, 0}, 1e-4, normalised ? nullptr : betas.data(), 1, in.data(), stats.data()};
  k.softargmax_forward({m, normalised ? nullptr : heatmap.data(), xy.data(), std.data()}, 0, channels, scratch.data());
  for (int missing = 0; missing < 4; ++missing) {
    k.softargmax_backward({m, missing == 1 || normalised ? nullptr : grad_heatmap.data(), missing == 2 ? nullptr : grad_xy.data(),
                           missing == 3 ? nullptr : grad_std.data(), grad_in.data(), normalised ? nullptr : grad_betas.data()},
                          0, channels, scratch.data());
  }
  for (double known : stats)
    if (!std::isfinite(known)) return 1;
  return 0;
}

int tiles(const Kernels& k, Type state, Type history, int64_t count, int n) {
  const auto f = buffer(state, count), x = buffer(wide(state), count);
  auto g = buffer(history, count), x_next = buffer(wide(state), count), x_cast = buffer(state, count);
  const std::vector<std::vector<char>> other_f(kMaxHistory, f), other_g(kMaxHistory, g);
  std::vector<double> sums(3 + kMaxHistory);
  Tile t{};
  t.state = state, t.history = history, t.count = count, t.n = n;
  t.f = f.data(), t.x = x.data(), t.sums = sums.data();
  for (void* stored : {static_cast<void*>(g.data()), static_cast<void*>(nullptr)}) {
    t.g = stored;
    for (int i = 0; i < n; ++i) t.others[i] = other_g[i].data();
    if (!stored) t.n = 0;
    k.measure(t);
  }
  t.n = n;
  for (double damping : {0.0, 0.5}) {
    for (void* cast : {static_cast<void*>(x_cast.data()), static_cast<void*>(nullptr)}) {
      t.damping = damping, t.x_next = x_next.data(), t.x_cast = cast;
      for (int i = 0; i < n; ++i) t.others[i] = other_f[i].data(), t.others_g[i] = other_g[i].data(), t.alpha[i] = 1.0 / n;
      if (n) k.mix(t);
      k.move(t);
    }
  }
  for (double sum : sums)
    if (!std::isfinite(sum)) return 1;
  return 0;
}

int every(const Kernels& k) {
  int failures = 0;
  const Type types[] = {Type::f32, Type::f64, Type::bf16, Type::f16};
  const int64_t sides[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 65};
  for (Type type : types) {
    for (int64_t height : sides)
      for (int64_t width : sides)
        for (bool normalised : {false, true}) failures += maps(k, type, height, width, normalised);
    for (int64_t count : {0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 1000, 2049})
      for (int n : {0, 1, 2, 5, 15, 16}) {
        failures += tiles(k, type, wide(type), count, n < kMaxHistory ? n : kMaxHistory);
        if (type != Type::f64) failures += tiles(k, type, Type::bf16, count, n);
      }
  }
  std::printf("%s\n", k.name);
  return failures;
}

}  // namespace

int main() {
  int failures = every(baseline::table);
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) failures += every(avx2::table);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    failures += every(avx512::table);
#endif
  return failures ? 1 : 0;
}
