/* How work is shared among the cores of the cluster. */
#ifndef TCL_SPLIT_H
#define TCL_SPLIT_H

#include "port.h"

/* The half-open range [start, stop) of `num_items` that the calling core does. Ranges of all cores are
   contiguous, cover every item once and differ in length by one at most. */
static inline void tcl_split(int num_items, int *start, int *stop)
{
    int const core = port_core_id();
    int const each = num_items / NUM_CORES;
    int const rest = num_items % NUM_CORES;
    *start = core * each + (core < rest ? core : rest);
    *stop = *start + each + (core < rest ? 1 : 0);
}

#endif
