// What the vectorised kernels take, and the table of them that each instruction set fills.
//
// Plain structs and pointers: the kernels are compiled without torch, once per instruction set.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../layout.h"

namespace ldeq::cpu {

// Pixel i of a column lies at scale * i + offset.
struct Axes {
  double scale_x, offset_x, scale_y, offset_y;
};

// Maps are contiguous, `height * width` elements each; coordinates are float for half maps, else of the maps' type.
struct Maps {
  Type type;
  int64_t height, width, channels;
  Axes axes;
  double eps;
  const double* beta;      // one or `channels` of them; null for maps that are normalised already
  int64_t beta_stride;     // 0 or 1
  const void* in;          // logits, or heatmaps where beta is null
  double* stats;           // kStats per map
};

struct MapsForward {
  Maps maps;
  void* heatmap;  // null where not wanted
  void* xy;
  void* std;
};

struct MapsBackward {
  Maps maps;
  const void* grad_heatmap;  // any of the three may be null: no gradient came
  const void* grad_xy;
  const void* grad_std;
  void* grad_in;
  double* grad_betas;  // per map; null where not wanted
};

// One tile of one sample of an Anderson or fixed-point step. `state` types what f takes and returns (f, and x_cast),
// `history` the ring of g; x itself is float64 for float64 states, else float32.
struct Tile {
  Type state, history;
  int64_t count;
  int n;                          // entries of f_ring and g_ring that take part
  const void* f;                  // newest f
  const void* x;
  void* g;                        // where the newest g is stored; null: only norms are wanted
  const void* others[kMaxHistory];  // pass 1: the other g; pass 2: the f that are mixed
  const void* others_g[kMaxHistory];  // pass 2 with damping: the g that go with them
  double alpha[kMaxHistory];
  double damping;                 // 1 - beta
  void* x_next;
  void* x_cast;                   // x_next in the state's type; null where not wanted
  double* sums;                   // pass 1: |g|^2, |f|^2, |stored g|^2, then <g, others[i]>
};

struct Kernels {
  const char* name;
  void (*softargmax_forward)(const MapsForward&, int64_t begin, int64_t end, void* scratch);
  void (*softargmax_backward)(const MapsBackward&, int64_t begin, int64_t end, void* scratch);
  void (*measure)(const Tile&);
  void (*mix)(const Tile&);
  void (*move)(const Tile&);  // fixed-point step: x_next = x + beta g and the norms, in one pass
};

// Bytes of scratch that a call of a softargmax kernel needs.
constexpr int64_t scratch_bytes(int64_t height, int64_t width) {
  return ((width + 16) * 2 + height + 8) * (int64_t)sizeof(double);
}

// The table of the best instruction set this processor has, or of the one that LDEQ_CPU_ISA names.
const Kernels& kernels();

}  // namespace ldeq::cpu
