/* ReLU and ReLU6 in C. */
#ifndef INNER_ACT_H
#define INNER_ACT_H

#include "tcl_act_fp32.h"

/* max(x, 0). */
static inline float tcl_relu(float x)
{
    return x > 0.0f ? x : 0.0f;
}

/* min(x, 6) of an x >= 0. */
static inline float tcl_below_6(float x)
{
    return x < TCL_SIX ? x : TCL_SIX;
}

#endif
