/* The inner loops of the matrix product, in C: see struct strip. */
#ifndef INNER_GEMM_H
#define INNER_GEMM_H

#include "../fast_gemm.h"

static float at(float const *from, int num_bytes)
{
    return from[num_bytes / (int)sizeof(float)];
}

/* c[i] = first[i] + sum of a[i] * b, b_k bytes apart. */
static void sum_column(struct strip const *s, float const *b, int b_k, float c[4])
{
    for (int i = 0; i < 4; i++) {
        c[i] = s->first[i];
        for (int k = 0; k < s->num_k; k++)
            c[i] += at(s->a, k * (3 * s->a_m + s->a_next) + i * s->a_m) * at(b, k * b_k);
    }
}

static void sum_4x1(struct strip const *s, float c[4])
{
    sum_column(s, s->b, s->b_next, c);
}

/* b_n: bytes between b's 4 elements. */
static void run_strip(struct strip *s, int b_n)
{
    for (int n = 0; n < 4 * s->num_blocks; n++) {
        float c[4];
        sum_column(s, s->b + n * b_n / 4, 3 * b_n + s->b_next, c);
        for (int i = 0; i < 4; i++) {
            int const to = i * s->c_m / 4 + n;
            s->c[to] = combined(c[i], s->base ? s->base + to : NULL, s->scale, s->decay, s->act);
        }
    }
}

static void strip_row(struct strip *s)
{
    run_strip(s, sizeof(float));
}

static void strip_alike(struct strip *s)
{
    run_strip(s, s->a_m);
}

#endif
