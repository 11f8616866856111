// Any processor: what the compiler assumes without being told more.
#define LDEQ_ISA baseline
#include "isa.h"
