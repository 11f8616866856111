// The small system of one sample: `mixing_weights` of ldeq/ops/solve_step/mixing.py.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels.h"

namespace ldeq::cpu {

// x of a x = b, for the k columns of unit diagonal that are `free`, by a Cholesky factorisation: column 0 first, then always the
// largest pivot; 0 for columns whose pivot does not exceed `least`. All arguments but k are changed.
inline void pivoted_solve(double (*a)[kMaxHistory], double* b, bool* free, const double* least, int k, double* x) {
  double column[kMaxHistory][kMaxHistory], root[kMaxHistory], y[kMaxHistory];
  int chosen[kMaxHistory], count = 0;
  for (int step = 0; step < k; ++step) {
    int p = step == 0 && free[0] ? 0 : -1;
    for (int i = 0; p != 0 && i < k; ++i)
      if (free[i] && a[i][i] > least[i] && (p < 0 || a[i][i] > a[p][p])) p = i;
    if (p < 0) break;
    root[count] = std::sqrt(a[p][p]);
    y[count] = b[p] / root[count];
    for (int i = 0; i < k; ++i) column[count][i] = free[i] ? a[i][p] / root[count] : 0;
    for (int i = 0; i < k; ++i) {
      for (int j = 0; j < k; ++j) a[i][j] -= column[count][i] * column[count][j];
      b[i] -= column[count][i] * y[count];
    }
    free[p] = false;
    chosen[count++] = p;
  }
  std::fill(x, x + k, 0.0);
  for (int step = count - 1; step >= 0; --step) {
    double s = y[step];
    for (int i = 0; i < k; ++i) s -= column[step][i] * x[i];
    x[chosen[step]] = s / root[step];
  }
}

// alpha for the `n` entries of `gram` (row length m) that `slots` names, newest first, in that order.
inline void mixing_weights(const double* gram, int m, const int* slots, int n, double ridge, double precision, double* alpha) {
  double products[kMaxHistory][kMaxHistory], b[kMaxHistory], scale[kMaxHistory], least[kMaxHistory], t[kMaxHistory];
  bool free[kMaxHistory];
  double mean = 0;
  for (int i = 0; i < n; ++i) mean += gram[slots[i] * m + slots[i]];
  const double shift = ridge >= 0 ? ridge * (mean / n) : -ridge;
  const auto entry = [&](int i, int j) { return gram[slots[i] * m + slots[j]] + (i == j ? shift : 0.0); };
  const int k = n - 1;
  for (int i = 0; i < k; ++i) {
    const double own = entry(i, i) - 2 * entry(i, i + 1) + entry(i + 1, i + 1);
    const double noise = kGramRounding * precision * (entry(i, i) + entry(i + 1, i + 1));
    free[i] = own > noise;
    scale[i] = free[i] ? 1 / std::sqrt(own) : 0;
    least[i] = std::max(noise * scale[i] * scale[i], kLeastPivot);
    b[i] = free[i] ? (entry(0, i) - entry(0, i + 1)) * scale[i] : 0;
  }
  for (int i = 0; i < k; ++i)
    for (int j = 0; j < k; ++j)
      products[i][j] = !free[i] || !free[j] ? 0
                                            : (entry(i, j) - entry(i + 1, j) - entry(i, j + 1) + entry(i + 1, j + 1)) * scale[i] * scale[j];
  pivoted_solve(products, b, free, least, k, t);
  for (int i = 0; i < k; ++i) t[i] *= scale[i];
  for (int i = 0; i < n; ++i) alpha[i] = (i > 0 ? t[i - 1] : 1.0) - (i < k ? t[i] : 0.0);
}

}  // namespace ldeq::cpu
