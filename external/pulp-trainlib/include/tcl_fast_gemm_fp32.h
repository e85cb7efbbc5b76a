/* Matrix product with any strides, on operands in L1: what pointwise convolution and the linear layer are,
   in every direction. */
#ifndef TCL_FAST_GEMM_FP32_H
#define TCL_FAST_GEMM_FP32_H

#include "tcl_fast_fp32.h"

/* Xpulpv2's body loads ahead, from up to so many floats behind the last elements of a and b: the port says
   that memory is there (PORT_L1_BEHIND, in bytes). Plain C reads nothing but a and b. */
enum { TCL_GEMM_REACH = 1024 };

/* sum = first[m] + sum over k of a[m * a_m + k * a_k] * b[n * b_n + k * b_k], for m < num_m, n < num_n, k <
   num_k; c[m * c_m + n] = act(sum). Strides in elements; first NULL: 0. With `base`, laid out as c (and c
   itself, perhaps), act(base + scale * (sum + decay * base)): a later part of a sum, or plain SGD. */
struct tcl_gemm {
    float const *a, *b, *first, *base;
    float *c;
    int num_m, num_n, num_k;
    int a_m, a_k, b_n, b_k, c_m;
    float scale, decay;
    enum tcl_act act;
};

/* A body: every core of the team calls it and does its part of c. */
void tcl_fast_gemm_fp32(struct tcl_gemm const *g);

#endif
