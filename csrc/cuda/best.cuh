// At the end of a solve: the best value of each sample, from where `flags` says that it is.
#pragma once

#include "../layout.h"
#include "platform.cuh"

namespace ldeq {

// W is a word that values are copied by: they may be of any type.
template <typename W>
struct BestSoFar {
  const W* ring[kMaxHistory];  // (batch, size) each
  const W *saved_best, *start;
  W* out;
  const int64_t* flags;  // (batch, columns)
  int64_t size;
  int columns, tiles, n;
};

constexpr int kBestThreads = 256;
constexpr int kBestTile = kBestThreads * 8;

template <typename W>
__global__ void __launch_bounds__(kBestThreads, 1) gather_best(const BestSoFar<W> p) {
  const int64_t sample = blockIdx.x / p.tiles;
  const int64_t best = p.flags[sample * p.columns + kBest];
  // A slot beyond the ring is the caller's mistake, which nothing here can report.
  const W* const from = best >= 0 && best < p.n ? pick(p.ring, static_cast<int>(best)) : best == kInSaved ? p.saved_best : p.start;
  const int64_t start = int64_t{blockIdx.x % p.tiles} * kBestTile;
  for (int64_t i = start + threadIdx.x; i < start + kBestTile && i < p.size; i += kBestThreads) {
    p.out[sample * p.size + i] = from[sample * p.size + i];
  }
}

}  // namespace ldeq
