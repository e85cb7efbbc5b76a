/* Casts between types of elements: plain reference kernels. Cores share the elements. */

#include <math.h>

#include "port.h"
#include "tcl_cast.h"
#include "tcl_split.h"

#define MOST 127.0f

/* A cast, and the largest of the absolute values that each core saw. */
struct cast {
    struct tcl_cast_args const *args;
    float largest[NUM_CORES];
};

static void find_largest(void *cast)
{
    struct cast *const c = cast;
    float largest = 0.0f;
    int start, stop;
    tcl_split(c->args->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        if (fabsf(c->args->values[i]) > largest)
            largest = fabsf(c->args->values[i]);
    c->largest[port_core_id()] = largest;
}

static void quantize(void *args)
{
    struct tcl_cast_args const *const a = args;
    float const scale = *a->scale;
    int start, stop;
    tcl_split(a->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        /* Next to the smallest float the scale is coarse: the bounds are for that. */
        float const x = scale > 0.0f ? a->values[i] / scale : 0.0f;
        a->codes[i] = (int8_t)lrintf(x > MOST ? MOST : x < -MOST ? -MOST : x);
    }
}

static void dequantize(void *args)
{
    struct tcl_cast_args const *const a = args;
    float const scale = *a->scale;
    int start, stop;
    tcl_split(a->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        a->values[i] = scale * (float)a->codes[i];
}

void tcl_cast_fp32_int8_cl(void *tcl_cast_args)
{
    struct tcl_cast_args *const a = tcl_cast_args;
    struct cast cast = {.args = a};
    float largest = 0.0f;
    port_fork(find_largest, &cast);
    for (int core = 0; core < NUM_CORES; core++)
        if (cast.largest[core] > largest)
            largest = cast.largest[core];
    *a->scale = largest / MOST;
    port_fork(quantize, a);
}

void tcl_cast_int8_fp32_cl(void *tcl_cast_args)
{
    port_fork(dequantize, tcl_cast_args);
}
