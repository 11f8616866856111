// The n x n system of one sample: `mixing_weights` of ldeq/ops/solve_step/mixing.py.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels.h"

namespace ldeq::cpu {

// alpha for the `n` entries of `gram` (row length m) that `slots` names, in that order.
inline void mixing_weights(const double* gram, int m, const int* slots, int n, double ridge, double* alpha) {
  double a[kMaxHistory][kMaxHistory], scale[kMaxHistory], y[kMaxHistory];
  double mean = 0;
  for (int i = 0; i < n; ++i) mean += gram[slots[i] * m + slots[i]];
  mean /= n;
  for (int i = 0; i < n; ++i) {
    double d = gram[slots[i] * m + slots[i]] + (ridge >= 0 ? ridge * mean : -ridge);
    if (d < kVanished * mean || std::isnan(mean)) d = kVanished * mean;
    scale[i] = 1 / std::sqrt(d > 0 ? d : 1.0);
  }
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < i; ++j) a[i][j] = gram[slots[i] * m + slots[j]] * scale[i] * scale[j];
  for (int i = 0; i < n; ++i) {
    double pivot = 1, s = scale[i];
    for (int j = 0; j < i; ++j) {
      double v = a[i][j];
      for (int k = 0; k < j; ++k) v -= a[i][k] * a[j][k];
      a[i][j] = v / a[j][j];
      pivot -= a[i][j] * a[i][j];
      s -= a[i][j] * y[j];
    }
    a[i][i] = std::sqrt(pivot < kPivotFloor ? kPivotFloor : pivot);
    y[i] = s / a[i][i];
  }
  double total = 0;
  for (int i = n - 1; i >= 0; --i) {
    double s = y[i];
    for (int k = i + 1; k < n; ++k) s -= a[k][i] * y[k];
    y[i] = s / a[i][i];
  }
  for (int i = 0; i < n; ++i) total += y[i] * scale[i];
  for (int i = 0; i < n; ++i) alpha[i] = y[i] * scale[i] / total;
}

}  // namespace ldeq::cpu
