/* The inner loops of the weight gradient of 3x3 windows, in C: see struct group. */
#ifndef INNER_WEIGH_H
#define INNER_WEIGH_H

#include "../fast_group.h"

/* Adds the products of a row of dy with the rows that it meets; `down` as for the results. */
static inline void weigh_row(struct group const *g, float const *dy, float sums[9], int down, int width,
                             int stride)
{
    for (int i = 0; i < 9; i++) {
        float sum = 0.0f;
        for (int x = 0; x < width; x += stride) {
            int const column = x + i % 3 - 1;
            if (column >= 0 && column < width)
                sum += dy[x / stride] * element(g, i / 3, down + column);
        }
        sums[i] += sum;
    }
}

static inline void weigh_rows(struct group const *g, float const *dy, float sums[9], int width, int stride)
{
    for (int i = 0; i < 9; i++)
        sums[i] = 0.0f;
    for (; g->num > 0; g++)
        for (int row = 0; row < g->num; row++, dy += width / stride)
            weigh_row(g, dy, sums, stride * row * width, width, stride);
}

/* Stride 1, padding 1: the sums of the 9 weights over `num` rows. */
static inline void weigh(struct group const *g, float const *dy, float sums[9], int width)
{
    weigh_rows(g, dy, sums, width, 1);
}

/* Stride 2, padding 1, even width: the sums of the 9 weights over `num` rows of outputs. */
static inline void weigh_2(struct group const *g, float const *dy, float sums[9], int width)
{
    weigh_rows(g, dy, sums, width, 2);
}

#endif
