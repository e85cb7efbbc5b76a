/* Where ReLU6 ends, as kernels compare with it. */
#ifndef TCL_ACT_FP32_H
#define TCL_ACT_FP32_H

#define TCL_SIX 6.0f

/* The same as an integer: floats of at least 0 are in the order of their bits. */
#define TCL_SIX_BITS 0x40c00000

/* Its mantissa, shifted by its exponent. */
typedef char tcl_six_is_six
    [(0x800000 | (TCL_SIX_BITS & 0x7fffff)) >> (150 - (TCL_SIX_BITS >> 23)) == (int)TCL_SIX ? 1 : -1];

#endif
