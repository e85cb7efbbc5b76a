/* ReLU and ReLU6 in Xpulpv2. As integers, negative floats are negative numbers: no floating-point unit is
 * needed. */
#ifndef INNER_ACT_H
#define INNER_ACT_H

#include "tcl_act_fp32.h"
#include "xpulp.h"

/* max(x, 0). */
static inline float tcl_relu(float x)
{
    __asm__(P_MAX("%0", "%0", "x0") : "+r"(x));
    return x;
}

/* min(x, 6) of an x >= 0. */
static inline float tcl_below_6(float x)
{
    float const six = TCL_SIX;
    __asm__(P_MIN("%0", "%0", "%1") : "+r"(x) : "r"(six));
    return x;
}

#endif
