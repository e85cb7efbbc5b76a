/* Keeps what the frozen part of a net gives for each training sample, so that later epochs leave it out. */

#include <math.h>
#include <string.h>

#include "port.h"
#include "pulp_train_utils_fp32.h"
#include "tcl_features.h"
#include "tcl_split.h"

#define MOST 127.0f

/* One tensor and its place in a record, for the bodies that the cores share. */
struct part {
    float *data;
    int dim;
    unsigned char *kept; /* floats or signed bytes */
    float scale;
    float largest[NUM_CORES]; /* of the absolute values that each core saw */
};

static void copy_out(void *part)
{
    struct part const *const p = part;
    int start, stop;
    tcl_split(p->dim, &start, &stop);
    if (start < stop)
        memcpy(p->kept + sizeof(float) * (size_t)start, p->data + start,
               sizeof(float) * (size_t)(stop - start));
}

static void copy_in(void *part)
{
    struct part const *const p = part;
    int start, stop;
    tcl_split(p->dim, &start, &stop);
    if (start < stop)
        memcpy(p->data + start, p->kept + sizeof(float) * (size_t)start,
               sizeof(float) * (size_t)(stop - start));
}

static void find_largest(void *part)
{
    struct part *const p = part;
    float largest = 0.0f;
    int start, stop;
    tcl_split(p->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        if (fabsf(p->data[i]) > largest)
            largest = fabsf(p->data[i]);
    p->largest[port_core_id()] = largest;
}

static void quantize(void *part)
{
    struct part const *const p = part;
    signed char *const codes = (signed char *)p->kept;
    int start, stop;
    tcl_split(p->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        /* Next to the smallest float the scale is coarse: the bounds are for that. */
        float const x = p->scale > 0.0f ? p->data[i] / p->scale : 0.0f;
        codes[i] = (signed char)lrintf(x > MOST ? MOST : x < -MOST ? -MOST : x);
    }
}

static void dequantize(void *part)
{
    struct part const *const p = part;
    signed char const *const codes = (signed char const *)p->kept;
    int start, stop;
    tcl_split(p->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        p->data[i] = p->scale * (float)codes[i];
}

static uint32_t *record(struct tcl_features const *f, uint64_t sample)
{
    PORT_CHECK(sample < f->num_samples);
    return f->records + (size_t)sample * f->record_words;
}

static uint32_t num_words(struct tcl_features const *f, uint32_t dim)
{
    return f->as_int8 ? 1 + (dim + 3) / 4 : dim;
}

int tcl_features_kept(struct tcl_features const *features, uint64_t sample, uint32_t *label)
{
    uint32_t const word = record(features, sample)[0];
    if (word == 0)
        return 0;
    *label = word - 1;
    return 1;
}

uint64_t tcl_features_keep(struct tcl_features const *features, uint64_t sample, uint32_t label)
{
    uint64_t const begin = port_cycles();
    uint32_t *const start = record(features, sample), *place = start + 1;
    for (int i = 0; i < features->num_tensors; i++) {
        struct tcl_feature const *const t = &features->tensors[i];
        struct part part = {.data = t->data, .dim = (int)t->dim, .kept = (unsigned char *)place};
        if (features->as_int8) {
            port_fork(find_largest, &part);
            for (int core = 0; core < NUM_CORES; core++)
                if (part.largest[core] > part.scale)
                    part.scale = part.largest[core];
            part.scale /= MOST;
            memcpy(place, &part.scale, sizeof part.scale);
            part.kept += sizeof part.scale;
        }
        if (features->as_int8 || !features->copy)
            port_fork(features->as_int8 ? quantize : copy_out, &part);
        else
            features->copy(place, t->data, sizeof(float) * t->dim);
        place += num_words(features, t->dim);
    }
    PORT_CHECK(place == start + features->record_words);
    start[0] = label + 1;
    return port_cycles() - begin;
}

uint64_t tcl_features_recall(struct tcl_features const *features, uint64_t sample)
{
    uint64_t const begin = port_cycles();
    uint32_t *place = record(features, sample) + 1;
    for (int i = 0; i < features->num_tensors; i++) {
        struct tcl_feature const *const t = &features->tensors[i];
        struct part part = {.data = t->data, .dim = (int)t->dim, .kept = (unsigned char *)place};
        if (features->as_int8) {
            memcpy(&part.scale, place, sizeof part.scale);
            part.kept += sizeof part.scale;
        }
        if (features->as_int8 || !features->copy)
            port_fork(features->as_int8 ? dequantize : copy_in, &part);
        else
            features->copy(t->data, place, sizeof(float) * t->dim);
        place += num_words(features, t->dim);
    }
    return port_cycles() - begin;
}

uint32_t const *tcl_features_of(struct tcl_features const *features, uint64_t sample)
{
    return record(features, sample) + 1;
}
