// Which instruction set runs: the best one that the processor has and that this library was built with.

#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace ldeq::cpu {

namespace baseline {
extern const Kernels table;
}
#ifdef LDEQ_X86
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

static const Kernels& choose() {
  // For tests and for hunting a fault; an unknown or unsupported name falls through to the automatic choice.
  const char* wanted = std::getenv("LDEQ_CPU_ISA");
  const auto allowed = [&](const char* name) { return !wanted || !*wanted || !std::strcmp(wanted, name); };
#ifdef LDEQ_X86
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (v4 && allowed("avx512")) return avx512::table;
  if (v3 && allowed("avx2")) return avx2::table;
  if (wanted && !std::strcmp(wanted, "baseline")) return baseline::table;
  if (v4) return avx512::table;
  if (v3) return avx2::table;
#endif
  (void)allowed;
  return baseline::table;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace ldeq::cpu
