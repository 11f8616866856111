// CPU side of the fixed-point step: norms and the next x in one pass.

#include "sample_state.h"

namespace ldeq::cpu {
namespace {

using torch::stable::parallel_for;

void fixed_point_step(const Tensor& x, const Tensor& f, std::optional<Tensor> evicted, const Tensor& measurements, const Tensor& flags,
                      const Tensor& saved_best, std::optional<Tensor> x_next, std::optional<Tensor> x_cast, int64_t slot, double beta,
                      double tol, bool relative, bool batch_stop) {
  check_fixed_point({x, measurements, flags, saved_best, evicted, x_next, x_cast}, f, slot, DeviceType::CPU);
  const int64_t batch = x.size(0), dim = x.size(1), tiles = std::max<int64_t>(1, (dim + kTile - 1) / kTile);
  const Type state = type_of(f, "f"), work = state == Type::f64 ? Type::f64 : Type::f32;
  double* measurements_ = static_cast<double*>(measurements.mutable_data_ptr());
  int64_t* flags_ = static_cast<int64_t*>(flags.mutable_data_ptr());
  void* next = mutable_pointer(x_next);
  void* cast = next ? mutable_pointer(x_cast) : nullptr;
  const void* x_ = x.const_data_ptr();
  const void* f_ = f.const_data_ptr();
  const Stop stop{tol, relative, batch_stop};
  Evicted left = evicted_of(evicted, saved_best);

  std::vector<double> partial(batch * tiles * 2);
  std::vector<char> was_active(batch);
  for (int64_t b = 0; b < batch; ++b) was_active[b] = flags_[b * kFlags + kActive] != 0;
  const auto move = [&](int64_t b, int64_t tile, bool moves, double* sums) {
    const int64_t from = b * dim + tile * kTile;
    Tile t{};
    t.state = state;
    t.count = std::min(kTile, dim - tile * kTile);
    t.f = moves ? at(f_, from, state) : nullptr;
    t.x = at(x_, from, work);
    t.damping = 1 - beta;
    t.x_next = next ? at(next, from, work) : nullptr;
    t.x_cast = cast ? at(cast, from, state) : nullptr;
    t.sums = sums;
    kernels().move(t);
  };
  parallel_for(0, batch * tiles, grain(dim, 4 * kTile), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      move(i / tiles, i % tiles, was_active[i / tiles] || batch_stop, partial.data() + 2 * i);
  });

  std::vector<Measured> measured(batch);
  for (int64_t b = 0; b < batch; ++b) {
    double gg = 0, ff = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      gg += partial[2 * (b * tiles + tile)];
      ff += partial[2 * (b * tiles + tile) + 1];
    }
    measured[b] = measure(state, gg, ff, relative);
  }
  const bool together = batch_stop && batch_converged(state, measured, stop);
  for (int64_t b = 0; b < batch; ++b) {
    decide(b, measurements_ + b * kMeasurements, flags_ + b * kFlags, measured[b], slot, together, stop, left);
    // A sample that has just stopped stays where it was; its f may even be NaN.
    const bool moved = was_active[b] || batch_stop;
    if (next && moved && !flags_[b * kFlags + kActive]) {
      double unused[2];
      for (int64_t tile = 0; tile < tiles; ++tile) move(b, tile, false, unused);
    }
  }
  left.copy();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ldeq, CPU, m) {
  m.impl("fixed_point_step", TORCH_BOX(&fixed_point_step));
}

}  // namespace ldeq::cpu
