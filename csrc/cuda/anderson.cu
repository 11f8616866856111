// CUDA side of the Anderson step, and of the best value at the end of a solve.

#include "solver_launch.cuh"
#include "step.h"

namespace ldeq::cuda {
namespace {

template <typename F, typename G>
void run(const Place& place, const StepTensors& t, const std::vector<Tensor>& f_ring, const Tensor& g_ring, const Tensor& gram,
         const StopRule& stop, double beta, double ridge, bool safeguards) {
  using A = Accumulate<F>;
  const int n = static_cast<int>(f_ring.size());
  AndersonStep<F, G> p{};
  for (int i = 0; i < n; ++i) p.f[i] = static_cast<const F*>(f_ring[i].const_data_ptr());
  p.f_new = p.f[stop.slot];
  for (int i = 0; i < n; ++i) p.g[i] = static_cast<G*>(g_ring.mutable_data_ptr()) + i * t.x.numel();
  p.g_new = p.g[stop.slot];
  p.x = static_cast<const A*>(t.x.const_data_ptr());
  p.x_next = static_cast<A*>(mutable_pointer(t.x_next));
  p.x_cast = p.x_next ? static_cast<F*>(mutable_pointer(t.x_cast)) : nullptr;
  p.evicted = evicted_of(t);
  p.size = t.x.size(1);
  p.n = n;
  p.damping = static_cast<A>(1 - beta);
  p.decision.samples = sample_state_of(t, stop, g_ring.size(0));
  p.decision.n = p.x_next ? n : 0;
  p.decision.columns = p.x_next ? kGramColumns + n : kNormColumns;
  p.decision.gram = static_cast<double*>(gram.mutable_data_ptr());
  p.decision.ridge = ridge;
  p.decision.safeguards = safeguards;
  const Launch launch(place);
  const Tensor room = workspace(p.decision, step_tiles(p), t.x);
  launch_step(p, launch);
  launch.check();
}

void anderson_step(const Tensor& x, std::vector<Tensor> f_ring, std::optional<Tensor> evicted, const Tensor& g_ring,
                   const Tensor& gram, const Tensor& measurements, const Tensor& flags, const Tensor& saved_best,
                   std::optional<Tensor> x_next, std::optional<Tensor> x_cast, int64_t slot, double beta, double ridge, double tol,
                   bool relative, bool batch_stop, bool safeguards) {
  const StepTensors t{x, measurements, flags, saved_best, evicted, x_next, x_cast};
  const Place place = check_anderson(t, f_ring, g_ring, gram, slot, kDevice);
  if (x.size(0) == 0) return;
  const StopRule stop{slot, tol, relative, batch_stop};
  with_element(type_of(f_ring[0], "f_ring"), [&](auto element) {
    using F = decltype(element);
    if constexpr (sizeof(F) == 8) {
      run<F, double>(place, t, f_ring, g_ring, gram, stop, beta, ridge, safeguards);
    } else if (g_ring.scalar_type() == ScalarType::BFloat16) {
      run<F, __nv_bfloat16>(place, t, f_ring, g_ring, gram, stop, beta, ridge, safeguards);
    } else {
      run<F, float>(place, t, f_ring, g_ring, gram, stop, beta, ridge, safeguards);
    }
  });
}

// Values are copied by the widest word that all of their rows consist of.
template <typename W>
void copy_best(const Place& place, const std::vector<Tensor>& ring, const Tensor& saved_best, const Tensor& start, const Tensor& flags,
               Tensor& out, int64_t row_bytes) {
  BestSoFar<W> p{};
  p.n = static_cast<int>(ring.size());
  for (int i = 0; i < p.n; ++i) p.ring[i] = static_cast<const W*>(ring[i].const_data_ptr());
  p.saved_best = static_cast<const W*>(saved_best.const_data_ptr());
  p.start = static_cast<const W*>(start.const_data_ptr());
  p.out = static_cast<W*>(out.mutable_data_ptr());
  p.flags = static_cast<const int64_t*>(flags.const_data_ptr());
  p.size = row_bytes / static_cast<int64_t>(sizeof(W));
  p.columns = static_cast<int>(flags.size(1));
  const int64_t tiles = tiles_of(p.size, kBestTile);
  check_blocks(start.size(0) * tiles, "start");
  p.tiles = static_cast<int>(tiles);
  const Launch launch(place);
  launch_gather_best(p, start.size(0), launch);
  launch.check();
}

Tensor best_so_far(std::vector<Tensor> ring, const Tensor& saved_best, const Tensor& start, const Tensor& flags) {
  const Place place = check_best(ring, saved_best, start, flags, kDevice);
  Tensor out = torch::stable::empty_like(start);
  if (start.numel() == 0) return out;
  const int64_t element = bytes_of(type_of(start, "start")), row_bytes = start.size(1) * element;
  bool wide = row_bytes % sizeof(uint4) == 0;
  for (const Tensor& t : ring) wide = wide && aligned(t.const_data_ptr(), sizeof(uint4));
  for (const Tensor& t : {saved_best, start, out}) wide = wide && aligned(t.const_data_ptr(), sizeof(uint4));
  if (wide) {
    copy_best<uint4>(place, ring, saved_best, start, flags, out, row_bytes);
  } else if (element == 8) {
    copy_best<uint2>(place, ring, saved_best, start, flags, out, row_bytes);
  } else if (element == 4) {
    copy_best<uint32_t>(place, ring, saved_best, start, flags, out, row_bytes);
  } else {
    copy_best<uint16_t>(place, ring, saved_best, start, flags, out, row_bytes);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(LDEQ_NAMESPACE, LDEQ_KEY, m) {
  m.impl("anderson_step", TORCH_BOX(&anderson_step));
  m.impl("best_so_far", TORCH_BOX(&best_so_far));
}

}  // namespace ldeq::cuda
