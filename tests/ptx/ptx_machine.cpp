// Runs translated kernels: a CUDA thread is a fiber, and a block's fibers take turns whenever one of them waits.
#include <c10/core/CPUAllocator.h>
#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <setjmp.h>
#include <ucontext.h>

#include <deque>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "ptx_thread.h"

namespace py = pybind11;

namespace {

// The memory of torch's tensors on the CPU, each with a margin around it that belongs to no tensor; new memory is NaN.
class Memory final : public c10::Allocator {
 public:
  static constexpr size_t kMargin = 256;
  // Larger tensors are left as the system gives them, which has no memory for what nobody touches: they may exceed what there is.
  static constexpr size_t kSparse = size_t{1} << 30;

  c10::DataPtr allocate(size_t size) override {
    if (size == 0) return {nullptr, nullptr, &release, c10::Device(c10::DeviceType::CPU)};
    const size_t whole = (size + 2 * kMargin + 63) / 64 * 64;
    char* const start = static_cast<char*>(std::aligned_alloc(64, whole));
    if (start == nullptr) throw std::bad_alloc();
    if (whole < kSparse) std::memset(start, 0xff, whole);
    sizes()[reinterpret_cast<u64>(start + kMargin)] = size;
    return {start + kMargin, start + kMargin, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t count) const override { std::memcpy(to, from, count); }

  static bool holds(u64 address, u32 bytes) {
    const auto after = sizes().upper_bound(address);
    if (after == sizes().begin()) return false;
    const auto [start, size] = *std::prev(after);
    return address + bytes <= start + size;
  }

 private:
  static void release(void* data) {
    if (data == nullptr) return;
    sizes().erase(reinterpret_cast<u64>(data));
    std::free(static_cast<char*>(data) - kMargin);
  }
  // Never destroyed: tensors outlive it.
  static std::map<u64, size_t>& sizes() {
    static auto* const sizes = new std::map<u64, size_t>;
    return *sizes;
  }
};

}  // namespace

class Machine {
 public:
  static constexpr size_t kStack = 64 * 1024;
  static constexpr u32 kMostShared = 227 * 1024;

  u32 ulp = 0;  // how far the approximate instructions may be off
  const char* parameters = nullptr;
  std::vector<char> shared;
  std::vector<Place> touched;  // by byte of shared memory
  u32 parameter_bytes = 0;

  void launch(const std::string& name, const Kernel& kernel, std::array<u32, 3> grid, u32 threads, const std::string& bytes,
              u32 dynamic, u32 first) {
    name_ = name;
    if (bytes.size() != kernel.parameter_bytes) stop("takes " + std::to_string(kernel.parameter_bytes) + " bytes of parameters");
    if (threads == 0 || threads > 1024 || threads % 32) stop("cannot run with " + std::to_string(threads) + " threads");
    if (kernel.shared_bytes + dynamic > kMostShared) stop("needs more shared memory than there is");
    std::vector<u64> copy((bytes.size() + 7) / 8);
    std::memcpy(copy.data(), bytes.data(), bytes.size());
    parameters = reinterpret_cast<const char*>(copy.data());
    parameter_bytes = bytes.size();
    prepare(threads);
    pages_.clear();
    for (u32 z = 0; z < grid[2]; ++z)
      for (u32 y = 0; y < grid[1]; ++y)
        for (u32 x = first; x < grid[0]; ++x) run_block(kernel, {x, y, z}, grid, kernel.shared_bytes + dynamic);
  }

  void progressed() { idle_ = 0; }

  // Of global memory, by two bytes: what this launch did there.
  Place& seen(u64 address) {
    auto& page = pages_[address / kPage];
    if (!page) page.reset(new Place[kPage / kUnit]);
    return page[address % kPage / kUnit];
  }
  static constexpr u64 kPage = 4096, kUnit = 2;

  // Lets the next fiber run.
  void yield(const Thread& self, int site) {
    if (++idle_ > 4 * live_.size()) self.fail(site, "waits for threads that never come");
    const int from = live_[at_];
    at_ = (at_ + 1) % live_.size();
    if (live_[at_] != from && !_setjmp(fibers_[from].here)) _longjmp(fibers_[live_[at_]].here, 1);
  }

  [[noreturn]] void stop(const std::string& what) const { throw std::runtime_error("kernel " + name_ + " " + what); }

 private:
  struct Fiber {
    ucontext_t start;
    jmp_buf here;
    std::unique_ptr<char[]> stack{new char[kStack]};
  };

  void prepare(u32 threads) {
    threads_.resize(threads);
    while (fibers_.size() < threads) {
      fibers_.emplace_back();
      Fiber& fiber = fibers_.back();
      getcontext(&fiber.start);
      fiber.start.uc_stack.ss_sp = fiber.stack.get();
      fiber.start.uc_stack.ss_size = kStack;
      fiber.start.uc_link = nullptr;
      const auto self = reinterpret_cast<u64>(this);
      makecontext(&fiber.start, reinterpret_cast<void (*)()>(&Machine::enter), 3, static_cast<u32>(self >> 32),
                  static_cast<u32>(self), static_cast<u32>(fibers_.size() - 1));
      if (!_setjmp(home_)) setcontext(&fiber.start);
    }
  }

  // A fiber runs one thread of one block after the other.
  static void enter(u32 high, u32 low, u32 index) {
    Machine& self = *reinterpret_cast<Machine*>(u64{high} << 32 | low);
    if (!_setjmp(self.fibers_[index].here)) _longjmp(self.home_, 1);
    for (;;) {
      try {
        self.kernel_->run(self.threads_[index]);
      } catch (const std::exception& error) {
        self.error_ = error.what();
      }
      self.progressed();
      self.live_.erase(self.live_.begin() + self.at_);
      if (!_setjmp(self.fibers_[index].here)) {
        if (self.live_.empty() || !self.error_.empty()) _longjmp(self.home_, 1);
        self.at_ %= self.live_.size();
        _longjmp(self.fibers_[self.live_[self.at_]].here, 1);
      }
    }
  }

  void run_block(const Kernel& kernel, std::array<u32, 3> index, std::array<u32, 3> grid, u32 shared_bytes) {
    const u32 count = threads_.size();
    Block block{static_cast<int>((index[2] * grid[1] + index[1]) * grid[0] + index[0])};
    std::vector<Warp> warps(count / 32);
    shared.assign(shared_bytes, '\xff');  // NaN: what a kernel reads before it wrote it shows
    touched.assign(shared_bytes, {});
    kernel_ = &kernel;
    live_.resize(count);
    for (u32 i = 0; i < count; ++i) {
      live_[i] = i;
      threads_[i] = {{i, 0, 0}, {count, 1, 1}, {index[0], index[1], index[2]}, {grid[0], grid[1], grid[2]}, this, &block, &warps[i / 32]};
    }
    at_ = 0;
    idle_ = 0;
    error_.clear();
    if (!_setjmp(home_)) _longjmp(fibers_[0].here, 1);
    if (!error_.empty()) {
      fibers_.clear();  // some are in the middle of the kernel
      throw std::runtime_error(error_);
    }
  }

  std::string name_, error_;
  const Kernel* kernel_ = nullptr;
  std::deque<Fiber> fibers_;
  std::vector<Thread> threads_;
  std::vector<u32> live_;
  std::unordered_map<u64, std::unique_ptr<Place[]>> pages_;
  size_t at_ = 0, idle_ = 0;
  jmp_buf home_;
};

// --- what a thread asks of the machine ----------------------------------------------------------------------------------

void Thread::fail(int site, const char* what) const {
  machine->stop(std::string(what) + " (block " + std::to_string(ctaid[0]) + ", thread " + std::to_string(tid[0]) + ", statement " +
                std::to_string(site) + ")");
}

u64 Thread::parameter(u32 at) const { return reinterpret_cast<u64>(machine->parameters) + at; }

f32 Thread::approximate(f32 v) const {
  const int ulp = machine->ulp;
  if (ulp == 0 || !std::isnormal(v)) return v;
  u32 bits;
  std::memcpy(&bits, &v, 4);
  u32 hash = bits * 2654435761u;
  hash ^= hash >> 15;
  return get<f32>(bits + static_cast<int>(hash % (2 * ulp + 1)) - ulp);
}

namespace {

// Whether a barrier stands between what `before` says and what `now` does. Between two blocks there is none.
bool ordered(const Touch& before, const Touch& now) {
  if (before.thread == Touch::kNobody) return true;
  if (before.block != now.block) return false;
  return before.thread == now.thread || before.block_epoch < now.block_epoch ||
         (before.warp == now.warp && before.warp_epoch < now.warp_epoch);
}

}  // namespace

char* Thread::place(Space space, int site, u64 address, u32 bytes, const void* write) {
  if (space == Space::param) {
    const u64 at = address - reinterpret_cast<u64>(machine->parameters);
    if (at + bytes > machine->parameter_bytes) fail(site, "reads past its parameters");
    return reinterpret_cast<char*>(address);
  }
  if (space == Space::shared) address = static_cast<u32>(address);
  if (address % bytes) fail(site, space == Space::shared ? "has a misaligned access of shared memory" : "has a misaligned access");
  char* const there = space == Space::global ? reinterpret_cast<char*>(address) : machine->shared.data() + address;
  if (space == Space::global && !Memory::holds(address, bytes)) fail(site, write ? "writes where no tensor is" : "reads where no tensor is");
  if (space == Space::shared && address + bytes > machine->shared.size()) fail(site, "accesses shared memory past its end");
  // Threads may write one value to one place at the same time, as Triton has them do.
  const bool again = write && std::memcmp(there, write, bytes) == 0;
  if (space == Space::global) {
    for (u64 i = address; i < address + bytes; i += Machine::kUnit) touch(site, machine->seen(i), write, again);
  } else {
    for (u64 i = address; i < address + bytes; ++i) touch(site, machine->touched[i], write, again);
  }
  return there;
}

void Thread::touch(int site, Place& place, bool writes, bool again) {
  auto& [writer, reader] = place;
  const Touch now{static_cast<int>(tid[0]), static_cast<int>(tid[0] / 32), block->number, block->epoch, warp->epoch};
  const auto check = [&](const Touch& before, const char* among_threads, const char* among_blocks) {
    if (!ordered(before, now)) fail(site, before.block == now.block ? among_threads : among_blocks);
  };
  if (!again) {
    check(writer, "reads or writes what another thread wrote, without a barrier between them",
          "reads or writes what another block of the launch wrote");
  }
  if (writes) {
    check(reader, "writes what another thread reads, without a barrier between them", "writes what another block of the launch reads");
    writer = now;
  } else if (ordered(reader, now)) {
    reader = now;
  } else {
    if (reader.block != now.block) reader.block = Touch::kSeveral;
    if (reader.warp != now.warp) reader.warp = Touch::kSeveral;
    reader.thread = Touch::kSeveral;
    reader.warp_epoch = now.warp_epoch;
  }
}

void Thread::sync_block(int site) {
  meet_warp(site, true);
  const u32 epoch = block->epoch;
  if (++block->arrived == static_cast<int>(ntid[0])) {
    block->arrived = 0;
    ++block->epoch;
    machine->progressed();
    return;
  }
  while (block->epoch == epoch) machine->yield(*this, site);
}

void Thread::meet_warp(int site, bool orders_memory) {
  if (warp->arrived == 0) warp->site = site;
  if (warp->site != site) fail(site, "has threads of one warp at two barriers or shuffles");
  const u32 phase = warp->phase;
  if (++warp->arrived == 32) {
    warp->arrived = 0;
    ++warp->phase;
    warp->epoch += orders_memory;
    machine->progressed();
    return;
  }
  while (warp->phase == phase) machine->yield(*this, site);
}

// --- Python -------------------------------------------------------------------------------------------------------------

namespace {

Machine& machine() {
  static auto* const machine = new Machine;
  return *machine;
}

class Library {
 public:
  explicit Library(const std::string& path) : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) throw std::runtime_error(dlerror());
  }
  void launch(const std::string& kernel, std::array<u32, 3> grid, u32 threads, const std::string& parameters, u32 shared,
              u32 first) const {
    const auto* found = static_cast<const Kernel*>(dlsym(handle_, kernel.c_str()));
    if (found == nullptr) throw std::runtime_error("no kernel " + kernel);
    machine().launch(kernel, *found, grid, threads, parameters, shared, first);
  }

 private:
  void* handle_;
};

}  // namespace

PYBIND11_MODULE(ptx_machine, m) {
  m.def(
      "watch_memory", [] { c10::SetCPUAllocator(new Memory, 255); },
      "From now on torch's memory starts as NaN, and kernels may access memory of tensors that are made after this alone.");
  m.def("perturb", [](u32 ulp) { machine().ulp = ulp; }, "How far ex2.approx and its like are off from now on.");
  py::class_<Library>(m, "Library", "A library of translated kernels.")
      .def(py::init<const std::string&>(), py::arg("path"))
      .def("launch", &Library::launch, py::arg("kernel"), py::arg("grid"), py::arg("threads"), py::arg("parameters"),
           py::arg("shared") = 0, py::arg("first") = 0,
           "Runs the blocks from `first`. Raises RuntimeError if a check fails.");
}
