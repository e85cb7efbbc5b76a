/* The inner loops over rows of 3x3 windows, in C: see struct group. */
#ifndef INNER_ROWS_H
#define INNER_ROWS_H

#include "../fast_group.h"

/* sum + what the window around column x meets; `down`: from the rows of the first result, in elements. */
static inline float met(struct group const *g, float const w[9], float sum, int down, int x, int width)
{
    for (int i = 0; i < 3; i++, w += 3) {
        sum += x > 0 ? w[0] * element(g, i, down + x - 1) : 0.0f;
        sum += w[1] * element(g, i, down + x);
        sum += x + 1 < width ? w[2] * element(g, i, down + x + 1) : 0.0f;
    }
    return sum;
}

/* Stride 1, padding 1: `num` rows of y, the same width. */
static inline void correlate(struct group const *g, float const w[9], float b, struct range range, float *y,
                             int width)
{
    for (; g->num > 0; g++)
        for (int row = 0; row < g->num; row++)
            for (int x = 0; x < width; x++)
                *y++ = limited(met(g, w, b, row * width, x, width), range);
}

/* Stride 2, padding 1, even width: rows of y, half as wide. */
static inline void correlate_2(struct group const *g, float const w[9], float b, struct range range, float *y,
                               int width)
{
    for (; g->num > 0; g++)
        for (int row = 0; row < g->num; row++)
            for (int x = 0; x < width; x += 2)
                *y++ = limited(met(g, w, b, 2 * row * width, x, width), range);
}

/* The same added to y. */
static inline void correlate_2_more(struct group const *g, float const w[9], struct range range, float *y,
                                    int width)
{
    for (; g->num > 0; g++)
        for (int row = 0; row < g->num; row++)
            for (int x = 0; x < width; x += 2, y++)
                *y = limited(met(g, w, *y, 2 * row * width, x, width), range);
}

/* Stride 2, padding 1, transposed: pairs of rows of dx, which a row of dy and the next one meet (rows 0 and 2
   of the group); dy has half of the columns of dx, 2 or more. */
static inline void spread(struct group const *g, float const w[9], float *dx, int width)
{
    for (; g->num > 0; g++)
        for (int row = 0; row < g->num; row++, dx += 2 * width)
            for (int x = 0; x < width; x += 2) {
                int const at = (row * width + x) / 2, is_last = x + 2 == width;
                float const d0 = element(g, 0, at), d2 = element(g, 2, at);
                float const next0 = is_last ? 0.0f : element(g, 0, at + 1);
                float const next2 = is_last ? 0.0f : element(g, 2, at + 1);
                dx[x] = w[4] * d0;
                dx[x + 1] = w[3] * next0 + w[5] * d0;
                dx[width + x] = w[7] * d0 + w[1] * d2;
                dx[width + x + 1] = w[6] * next0 + w[8] * d0 + w[0] * next2 + w[2] * d2;
            }
}

#endif
