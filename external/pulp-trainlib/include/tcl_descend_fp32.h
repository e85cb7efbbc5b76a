/* Plain gradient descent of one weight, wherever it is done. */
#ifndef TCL_DESCEND_FP32_H
#define TCL_DESCEND_FP32_H

static inline float tcl_descended(float weight, float gradient, float rate, float decay)
{
    return weight - rate * (gradient + decay * weight);
}

#endif
