// The table of one instruction set; included by isa_*.cpp, which differ in LDEQ_ISA and in the flags setup.py gives them.
#pragma once

#include "anderson_kernels.h"
#include "softargmax_kernels.h"

namespace ldeq::cpu::LDEQ_ISA {

#define LDEQ_QUOTE(name) #name
#define LDEQ_NAME(name) LDEQ_QUOTE(name)

extern const Kernels table;
const Kernels table = {LDEQ_NAME(LDEQ_ISA), softargmax_forward, softargmax_backward, measure, mix, move};

}  // namespace ldeq::cpu::LDEQ_ISA
