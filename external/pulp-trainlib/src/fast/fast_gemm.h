/* What the walk over a matrix product and its inner loops share. */
#ifndef FAST_GEMM_H
#define FAST_GEMM_H

#include <stddef.h>

#include "tcl_fast_gemm_fp32.h"

/* Blocks of 4x4 beside each other, as the assembly reads them: the order of the fields is its. Strides in
   bytes; `next` leads from the last of the 4 elements of a step in k to the first of the next step. */
struct strip {
    float const *a, *b;
    int a_m, a_next, b_next;
    int num_k;
    float first[4];
    float *c;
    int c_m;
    int num_blocks;
    int b_step; /* from a block to the next */
    float const *base;
    int act;
    float scale, decay;
};

/* What is stored of a sum. */
static inline float combined(float sum, float const *base, float scale, float decay, int act)
{
    if (base) {
        sum = decay == 0.0f ? sum : sum + decay * *base; /* a weight that is infinite stays so */
        sum = *base + scale * sum;
    }
    return tcl_activate(sum, (enum tcl_act)act);
}

#endif
