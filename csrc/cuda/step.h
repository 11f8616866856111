// Shared by the CUDA operators of a solve: their workspace, and what `decide` takes.
#pragma once

#include "decide.cuh"
#include "launch.h"

namespace ldeq {

struct StopRule {
  int64_t slot;
  double tol;
  bool relative, batch_stop;
};

inline SampleState sample_state_of(const StepTensors& t, const StopRule& stop, int64_t m) {
  return {static_cast<double*>(t.measurements.mutable_data_ptr()),
          static_cast<int64_t*>(t.flags.mutable_data_ptr()),
          t.x.size(0),
          static_cast<int>(m),
          static_cast<int>(stop.slot),
          stop.tol,
          stop.relative,
          stop.batch_stop};
}

inline Evicted evicted_of(const StepTensors& t) {
  void* const to = t.saved_best.mutable_data_ptr();
  const void* const from = pointer(t.evicted);
  const int bytes = static_cast<int>(bytes_of(type_of(t.saved_best, "saved_best")));
  const int word = sizeof(uint4);
  return {from, to, bytes, t.x.size(1) * bytes % word == 0 && aligned(from, word) && aligned(to, word)};
}

// Allocates what a step needs beside its arguments, in one piece, and enters it into `p`; keep the tensor until the launch is done.
template <typename A>
Tensor workspace(Decision<A>& p, int64_t tiles, const Tensor& like) {
  const int64_t batch = p.samples.batch;
  check_blocks(batch * tiles, "x");
  STD_TORCH_CHECK(p.columns * tiles < int64_t{1} << 31, "x is too large for one launch: a sample may have 2e11 elements");
  p.tiles = static_cast<int>(tiles);
  const int64_t partials = batch * p.columns * tiles, alpha = p.n > 0 ? batch * kMaxHistory : 0;
  const int64_t bytes = partials * sizeof(double) + alpha * sizeof(A) + batch * sizeof(int);
  Tensor room = empty({(bytes + 7) / 8}, ScalarType::Double, like);
  p.partials = static_cast<double*>(room.mutable_data_ptr());
  p.alpha = reinterpret_cast<A*>(p.partials + partials);
  p.todo = reinterpret_cast<int*>(p.alpha + alpha);
  return room;
}

}  // namespace ldeq
