/* The inner loops of the weight gradient of 3x3 windows: in C, as GCC takes too few operands for assembly. */
#include "../plain/inner_weigh.h"
