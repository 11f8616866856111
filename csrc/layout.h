// What the tensors of the operators hold, for the CPU and the CUDA kernels alike. No torch in here.
#pragma once

#include <cstdint>

namespace ldeq {

enum class Type : int { f32, f64, bf16, f16 };

constexpr int kMaxHistory = 16;

// `stats` `(B, K, kStats)`, float64, is what the backward pass of soft-argmax needs of each map: the max (0 for a map of -inf
// alone) and how many pixels share it, sum z + eps, sum z / (sum z + eps), the means of column and row and the mean of their
// variances, in pixels. The last column is 0.
enum Stat : int { kPeak, kTies, kTotal, kMass, kMeanX, kMeanY, kVariance, kStats = 8 };

// Columns of `measurements` `(B, kMeasurements)`, float64, and of `flags` `(B, kFlags + m)`, int64. ldeq/ops/layout.py
// says what they hold; a test compares the names.
enum Measurement : int { kResidual, kNorm, kFirstNorm, kLowest, kLast, kMark, kLimit, kMeasurements };
enum Flag : int { kStatus, kIterations, kActive, kBest, kMixed, kStalled, kFlags };
enum Status : int64_t { kMaxIter, kConverged, kDiverged, kNonfinite };

// Where the best value of a sample is: a slot of the ring (>= 0), the saved copy, or still the start.
constexpr int64_t kInSaved = -1, kInStart = -2;

// The constants of ldeq/ops/solve_step, which says where they come from.
constexpr double kDivergenceFactor = 1e8, kGrowthPerStep = 4;
constexpr double kRestartFactor = 10, kStallFactor = 0.3, kMaxWeightRounding = 1e-3;
constexpr int kStallHistories = 2;
constexpr double kLeastPivot = 1e-7, kGramRounding = 10;

}  // namespace ldeq
