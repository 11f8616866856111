// What translated PTX runs on: the registers' values, and a CUDA thread with its memory, barriers and shuffles.
//
// Every access is checked: that it is aligned and in bounds, and that a barrier stands between it and what another thread does
// with the same place; in global memory, also that no other block of the launch writes there.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
using b8 = u8;
using b16 = u16;
using b32 = u32;
using b64 = u64;
using f32 = float;
using f64 = double;
using pred = bool;
struct f16 {
  u16 bits;
};
struct bf16 {
  u16 bits;
};

// --- values -------------------------------------------------------------------------------------------------------------

template <int kBytes>
struct Unsigned;
template <>
struct Unsigned<1> {
  using Type = u8;
};
template <>
struct Unsigned<2> {
  using Type = u16;
};
template <>
struct Unsigned<4> {
  using Type = u32;
};
template <>
struct Unsigned<8> {
  using Type = u64;
};

// The low bits of a register as a value of this type.
template <typename T, typename Bits>
T get(Bits bits) {
  if constexpr (std::is_same_v<T, bool>) {
    return bits != 0;
  } else {
    const auto low = static_cast<typename Unsigned<sizeof(T)>::Type>(bits);
    T value;
    std::memcpy(&value, &low, sizeof(T));
    return value;
  }
}

// A value in a register that may be wider: signed ones keep their sign.
template <typename Register, typename T>
void set(Register& to, T value) {
  if constexpr (std::is_integral_v<T>) {
    to = static_cast<Register>(value);
  } else {
    typename Unsigned<sizeof(T)>::Type bits;
    std::memcpy(&bits, &value, sizeof(T));
    to = bits;
  }
}

inline unsigned __int128 widest(u64 v) { return v; }
inline __int128 widest(s64 v) { return v; }

inline f32 flushed(f32 v) { return std::fabs(v) < 1.17549435e-38f ? std::copysign(0.0f, v) : v; }

inline f32 wide(f16 v) { return static_cast<f32>(get<_Float16>(v.bits)); }
inline f32 wide(bf16 v) { return get<f32>(u32{v.bits} << 16); }
template <typename T>
T wide(T v) {
  return v;
}

inline f16 narrow(f32 v, f16) {
  const auto rounded = static_cast<_Float16>(v);
  f16 out;
  std::memcpy(&out, &rounded, 2);
  return out;
}
inline bf16 narrow(f32 v, bf16) {
  if (v != v) return {0x7fff};
  u32 bits;
  std::memcpy(&bits, &v, 4);
  return {static_cast<u16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};  // to nearest, ties to even
}

template <typename To, typename From>
To converted(From from) {
  if constexpr (std::is_arithmetic_v<To>) {
    return static_cast<To>(wide(from));
  } else {
    static_assert(std::is_same_v<From, f32>, "rounded once");
    return narrow(from, To{});
  }
}

template <typename To>
u32 packed(f32 high, f32 low) {
  return u32{narrow(high, To{}).bits} << 16 | narrow(low, To{}).bits;
}

// To an integer: the nearest that there is, 0 for NaN.
template <typename To>
To saturated(f64 v) {
  const To least = To(-1) < To(0) ? To(To(1) << (8 * sizeof(To) - 1)) : To(0), most = ~least;
  if (v != v) return 0;
  if (v <= static_cast<f64>(least)) return least;
  return v >= static_cast<f64>(most) ? most : static_cast<To>(v);
}

template <typename T>
T inserted(T a, T into, u32 at, u32 count) {
  at &= 255, count &= 255;
  for (u32 i = 0; i < count && at + i < 8 * sizeof(T); ++i) into = (into & ~(T{1} << (at + i))) | (a >> i & 1) << (at + i);
  return into;
}

template <typename T>
T extracted(T a, u32 at, u32 count) {
  at &= 255, count &= 255;
  if (count == 0) return 0;
  const u32 width = 8 * sizeof(T), last = at + count - 1 < width - 1 ? at + count - 1 : width - 1;
  const T fill = T(-1) < T(0) && (a >> last & 1) ? -1 : 0;
  const T shifted = at < width ? a >> at : fill;
  return count >= width ? shifted : (shifted & ((T{1} << count) - 1)) | (fill & ~((T{1} << count) - 1));
}

inline u32 permuted(u32 a, u32 b, u32 selectors) {
  const u64 bytes = u64{b} << 32 | a;
  u32 out = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 selector = selectors >> 4 * i & 15, byte = bytes >> 8 * (selector & 7) & 255;
    out |= (selector & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
  }
  return out;
}

inline u32 looked_up(u32 a, u32 b, u32 c, u32 table) {
  u32 out = 0;
  for (int i = 0; i < 8; ++i)
    if (table >> i & 1) out |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return out;
}

// --- a thread -----------------------------------------------------------------------------------------------------------

enum class Space { param, global, shared };

// Who last touched a place, and how many barriers of the block and of its warp had passed by then.
struct Touch {
  static constexpr int kNobody = -1, kSeveral = -2;
  int thread = kNobody, warp = kNobody, block = kNobody;
  u32 block_epoch = 0, warp_epoch = 0;
};

// The last write of a place and its last read.
struct Place {
  Touch writer, reader;
};

struct Warp {
  int arrived = 0, site = 0;
  u32 phase = 0, epoch = 0;
  u64 exchange[2][32];
};

struct Block {
  int number = 0, arrived = 0;
  u32 epoch = 0;
};

class Machine;

struct Thread {
  u32 tid[3], ntid[3], ctaid[3], nctaid[3];
  Machine* machine;
  Block* block;
  Warp* warp;
  u32 half = 0, turns = 0;

  u32 lane() const { return tid[0] % 32; }

  template <typename T, int kCount, Space kSpace>
  std::array<T, kCount> load(int site, u64 address) {
    std::array<T, kCount> words;
    std::memcpy(&words, place(kSpace, site, address, sizeof(words), nullptr), sizeof(words));
    return words;
  }

  template <typename T, int kCount, Space kSpace>
  void store(int site, u64 address, const std::array<T, kCount>& words) {
    std::memcpy(place(kSpace, site, address, sizeof(words), &words), &words, sizeof(words));
  }

  // What the lanes of this warp hand in, by lane.
  const u64* exchanged(int site, u32 value, u32 mask) {
    if (mask != 0xffffffffu) fail(site, "exchanges values under a mask that leaves lanes out");
    u64(&words)[32] = warp->exchange[half];
    half ^= 1;  // two halves in turn: nobody writes one before all have read it
    words[lane()] = value;
    meet_warp(site, false);
    return words;
  }

  template <char kHow>
  std::pair<u32, bool> shuffle(int site, u32 value, u32 b, u32 c, u32 mask) {
    const u64* const words = exchanged(site, value, mask);
    const int segment = c >> 8 & 31, clamp = c & 31, least = lane() & segment, most = least | (clamp & ~segment & 31);
    const int step = b & 31, self = lane();
    int from = kHow == 'b' ? self ^ step : kHow == 'u' ? self - step : kHow == 'd' ? self + step : least | (step & ~segment);
    const bool inside = kHow == 'u' ? from >= most : from <= most;
    return {static_cast<u32>(words[inside ? from : self]), inside};
  }

  u32 ballot(int site, bool value, u32 mask) {
    const u64* const words = exchanged(site, value, mask);
    u32 bits = 0;
    for (int i = 0; i < 32; ++i) bits |= static_cast<u32>(words[i]) << i;
    return bits;
  }

  template <typename T, typename Join>
  T reduce(int site, u32 value, u32 mask, Join join) {
    const u64* const words = exchanged(site, value, mask);
    T all = get<T>(words[0]);
    for (int i = 1; i < 32; ++i) all = join(all, get<T>(words[i]));
    return all;
  }

  // 8 x 8 matrices of 16 bits, whose rows the lanes give the addresses of: a lane gets two neighbours of each.
  template <int kCount>
  std::array<u32, kCount> load_matrices(int site, u64 address) {
    const u64* const rows = exchanged(site, static_cast<u32>(address), 0xffffffffu);
    std::array<u32, kCount> words;
    for (int i = 0; i < kCount; ++i) {
      const u64 row = rows[8 * i + lane() / 4];
      if (row % 16) fail(site, "has a misaligned row of a matrix");
      words[i] = load<u32, 1, Space::shared>(site, row + lane() % 4 * 4)[0];
    }
    return words;
  }

  // A shuffle is no barrier for memory; this is.
  void sync_warp(int site) { meet_warp(site, true); }

  // A loop starts again.
  void turn(int site) {
    if (++turns > 1u << 22) fail(site, "does not end");
  }

  template <typename T>
  T divisor(T v) {
    if (v == 0) fail(0, "divides by zero");
    return v;
  }

  u64 parameter(u32 at) const;
  f32 approximate(f32 v) const;

  // Where in the CPU's memory an access goes, after all checks; `write` is what it writes there, or null.
  char* place(Space space, int site, u64 address, u32 bytes, const void* write);
  void touch(int site, Place& place, bool writes, bool again);
  void sync_block(int site);
  void meet_warp(int site, bool orders_memory);
  // Ends the launch with an error. A site is a line of the translated kernel.
  [[noreturn]] void fail(int site, const char* what) const;
};

struct Kernel {
  void (*run)(Thread&);
  u32 parameter_bytes, shared_bytes;
};
