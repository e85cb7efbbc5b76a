/* Activations that the fast kernels apply to what they store. */
#ifndef TCL_FAST_FP32_H
#define TCL_FAST_FP32_H

#include "tcl_xpulp.h"

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
    float const six = 6.0f;
    __asm__(P_MIN("%0", "%0", "%1") : "+r"(x) : "r"(six));
    return x;
#else
    return x < 6.0f ? x : 6.0f;
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
