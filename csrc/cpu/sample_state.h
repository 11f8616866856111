// Stopping, status and best value of each sample: `decide` of ldeq/ops/solve_step/reference.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "../check.h"
#include "kernels.h"

namespace ldeq::cpu {

// Elements of one sample that one call of a kernel handles; the sums of tiles are added in their order, in double.
constexpr int64_t kTile = 8192;

// Tiles that are worth another thread, at `elements` of work in all: many samples may be smaller than one tile.
inline int64_t grain(int64_t dim, int64_t elements) {
  return std::max<int64_t>(1, elements / std::max<int64_t>(1, std::min(dim, kTile)));
}

struct Stop {
  double tol;
  bool relative, batch;
};

// The residual is rounded to the precision of the state, so that comparisons come out as in the reference.
struct Measured {
  double norm, residual;
  bool finite() const { return std::isfinite(norm) && std::isfinite(residual); }
};

inline char* at(void* base, int64_t elements, Type type) {
  return static_cast<char*>(base) + elements * bytes_of(type);
}
inline const char* at(const void* base, int64_t elements, Type type) {
  return static_cast<const char*>(base) + elements * bytes_of(type);
}

inline Measured measure(Type state, double gg, double ff, bool relative) {
  const double norm = std::sqrt(gg), size = std::sqrt(ff), least = std::numeric_limits<double>::min();
  const double residual = relative ? norm / (size < least ? least : size) : norm;
  if (state == Type::f64) return {norm, std::min(residual, std::numeric_limits<double>::max())};
  const double largest = std::numeric_limits<float>::max();
  return {norm, residual > largest ? largest : (double)(float)residual};
}

// Copies `rows` rows of `bytes`; `ends` maps a row to (to, from). One core alone cannot fill the memory's bandwidth.
template <typename Ends>
void copy_rows(int64_t rows, int64_t bytes, const Ends& ends) {
  constexpr int64_t kChunk = 1 << 18;
  const int64_t chunks = (bytes + kChunk - 1) / kChunk;
  torch::stable::parallel_for(0, rows * chunks, std::max<int64_t>(1, kChunk / std::max<int64_t>(1, bytes)),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t i = begin; i < end; ++i) {
                                  const auto [to, from] = ends(i / chunks);
                                  const int64_t at = i % chunks * kChunk;
                                  std::memcpy(to + at, from + at, std::min(kChunk, bytes - at));
                                }
                              });
}

// The value that a new one evicts from its slot, and the samples of which it is the only copy of the best.
struct Evicted {
  const char* data;  // null if the slot was empty
  char* saved_best;
  int64_t bytes;  // of one sample
  std::vector<int64_t> samples;

  void copy() {
    copy_rows((int64_t)samples.size(), bytes, [&](int64_t i) {
      const int64_t from = samples[i] * bytes;
      return std::pair<char*, const char*>(saved_best + from, data + from);
    });
    samples.clear();
  }
};

// Takes in one evaluation of sample b; afterwards flags[kActive] says whether it goes on. `evicted` is still to be copied.
inline void decide(int64_t b, double* measurements, int64_t* flags, const Measured& now, int64_t slot, bool batch_converged,
                   const Stop& stop, Evicted& evicted) {
  const bool active = flags[kActive] != 0, finite = now.finite();
  if (flags[kIterations] == 0) measurements[kFirstNorm] = now.norm;
  const bool better = active && finite && now.residual < measurements[kResidual];
  if (better) {
    measurements[kResidual] = now.residual;
    measurements[kNorm] = now.norm;
    flags[kBest] = slot;
  } else if (flags[kBest] == slot) {
    STD_TORCH_CHECK(evicted.data, "evicted must hold the values that slot ", slot, " held before: that of sample ", b, " is its best");
    // The best value is copied if its slot is taken by something worse.
    evicted.samples.push_back(b);
    flags[kBest] = kInSaved;
  }
  if (!active) return;
  const bool diverged = finite && now.norm > measurements[kLimit];
  if (finite) {
    const double raised = std::min(kGrowthPerStep * measurements[kLimit], kDivergenceFactor * now.norm);
    measurements[kLimit] = std::max(kDivergenceFactor * measurements[kFirstNorm], raised);
  }
  flags[kIterations] += 1;
  measurements[kLast] = now.residual;
  const bool converged = stop.batch ? batch_converged : finite && now.residual <= stop.tol;
  if (converged) flags[kStatus] = kConverged;
  if (diverged) flags[kStatus] = kDiverged;
  if (!finite) flags[kStatus] = kNonfinite;
  if (converged || diverged || !finite) flags[kActive] = 0;
}

// Whether the mean residual of the batch meets the tolerance (the published loop's stop).
inline bool batch_converged(Type state, const std::vector<Measured>& all, const Stop& stop) {
  double mean = 0;
  for (const Measured& m : all) mean += m.residual;
  mean /= (double)all.size();
  return (state == Type::f64 ? mean : (double)(float)mean) <= stop.tol;
}

inline Evicted evicted_of(const std::optional<Tensor>& value, const Tensor& saved_best) {
  return {static_cast<const char*>(pointer(value)), static_cast<char*>(saved_best.mutable_data_ptr()),
          saved_best.size(1) * bytes_of(type_of(saved_best, "saved_best")), {}};
}

}  // namespace ldeq::cpu
