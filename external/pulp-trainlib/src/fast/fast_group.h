/* What the walk over the rows of 3x3 windows and its inner loops share. */
#ifndef FAST_GROUP_H
#define FAST_GROUP_H

#include <stdint.h>

#include "tcl_fast_fp32.h"

/* What every result is: at least lo, at most hi, as integers; that is ReLU, and with the extremes nothing. */
struct range {
    int32_t lo, hi;
};

static inline struct range range_of(enum tcl_act act)
{
    return (struct range){act == TCL_ACT_NONE ? INT32_MIN : 0,
                          act == TCL_ACT_RELU6 ? TCL_SIX_BITS : INT32_MAX};
}

static inline float limited(float number, struct range range)
{
    union {
        float number;
        int32_t bits;
    } x = {number};
    x.bits = x.bits > range.lo ? x.bits : range.lo;
    x.bits = x.bits < range.hi ? x.bits : range.hi;
    return x.number;
}

/* Rows of results that are walked alike. The rows that meet the first, where an outer one that is outside is
   a zero; bytes from a column to the next, 0 there; how many rows of results, 0 behind the last group. */
struct group {
    float const *row[3];
    int first_step, last_step;
    int num;
};

/* A first row, inner rows, a last row, and the end. */
enum { MOST_GROUPS = 4 };

/* The element x of row i of those that meet the first result; what is outside is 0. */
static inline float element(struct group const *g, int i, int x)
{
    int const is_outside = (i == 0 && !g->first_step) || (i == 2 && !g->last_step);
    return g->row[i][is_outside ? 0 : x];
}

#endif
