/* The inner loops of what is done element by element, in C. */
#ifndef INNER_MAP_H
#define INNER_MAP_H

#include <stdint.h>
#include <string.h>

/* dy[i] = 0 unless 0 < y[i] < limit, as integers: y - 1 as unsigned is less than limit - 1. Returns the sum
   of what is left. */
static inline float mask(float const *y, float *dy, int num, uint32_t limit)
{
    float sum = 0.0f;
    uint32_t const most = limit - 1;
    for (int i = 0; i < num; i++) {
        uint32_t bits;
        memcpy(&bits, &y[i], sizeof bits);
        dy[i] = bits - 1 < most ? dy[i] : 0.0f;
        sum += dy[i];
    }
    return sum;
}

/* Adds num_fours times 4 elements of x to the 4 sums. */
static inline void sum_fours(float const *x, int num_fours, float sums[4])
{
    for (int i = 0; i < 4 * num_fours; i++)
        sums[i % 4] += x[i];
}

#endif
