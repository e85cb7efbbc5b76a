/* Activations that the fast kernels apply to what they store. */
#ifndef TCL_FAST_FP32_H
#define TCL_FAST_FP32_H

#include <stddef.h>

#include "port.h"
#include "tcl_act_fp32.h"
#include "tcl_xpulp.h"

/* Checks the contract of what is done for each tile, on every core. Tables of tiles are checked before they
   are emitted, and on the chip these checks would cost cycles of every tile: there they are left out but with
   TCL_CHECKS (make CHECKS=1). Hosts and QEMU always have them. */
#if defined TCL_XPULP && !defined TCL_CHECKS
#define TCL_CHECK(condition) ((void)sizeof((condition) ? 1 : 0))
#else
#define TCL_CHECK(condition) PORT_CHECK(condition)
#endif

enum tcl_act { TCL_ACT_NONE, TCL_ACT_RELU, TCL_ACT_RELU6 };

/* max(x, 0). As integers, negative floats are negative numbers: no floating-point unit is needed. */
static inline float tcl_relu(float x)
{
#ifdef TCL_XPULP
    __asm__(P_MAX("%0", "%0", "x0") : "+r"(x));
    return x;
#else
    return x > 0.0f ? x : 0.0f;
#endif
}

/* min(x, 6) of an x >= 0. */
static inline float tcl_below_6(float x)
{
#ifdef TCL_XPULP
    float const six = TCL_SIX;
    __asm__(P_MIN("%0", "%0", "%1") : "+r"(x) : "r"(six));
    return x;
#else
    return x < TCL_SIX ? x : TCL_SIX;
#endif
}

static inline float tcl_activate(float x, enum tcl_act act)
{
    if (act == TCL_ACT_NONE)
        return x;
    x = tcl_relu(x);
    return act == TCL_ACT_RELU6 ? tcl_below_6(x) : x;
}

#endif
