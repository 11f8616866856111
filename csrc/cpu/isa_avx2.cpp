// AVX2, FMA: most x86-64 processors since 2013.
#define LDEQ_ISA avx2
#include "isa.h"
