// AVX-512 F, BW, DQ and VL.
#define LDEQ_ISA avx512
#include "isa.h"
