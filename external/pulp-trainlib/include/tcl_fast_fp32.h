/* Activations that the fast kernels apply to what they store. */
#ifndef TCL_FAST_FP32_H
#define TCL_FAST_FP32_H

#include <stddef.h>

#include "inner_act.h"
#include "port.h"

/* Checks the contract of what is done for each tile, on every core. Tables of tiles are checked before they
   are emitted, and on the chip these checks would cost cycles of every tile: there they are left out but with
   `make CHECKS=1`. Hosts and QEMU always have them. */
#ifdef TCL_UNCHECKED
#define TCL_CHECK(condition) ((void)sizeof((condition) ? 1 : 0))
#else
#define TCL_CHECK(condition) PORT_CHECK(condition)
#endif

enum tcl_act { TCL_ACT_NONE, TCL_ACT_RELU, TCL_ACT_RELU6 };

static inline float tcl_activate(float x, enum tcl_act act)
{
    if (act == TCL_ACT_NONE)
        return x;
    x = tcl_relu(x);
    return act == TCL_ACT_RELU6 ? tcl_below_6(x) : x;
}

#endif
