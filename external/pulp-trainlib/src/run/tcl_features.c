/* Keeps what the frozen part of a net gives for each training sample, so that later epochs leave it out. */

#include <string.h>

#include "port.h"
#include "pulp_train_utils_fp32.h"
#include "tcl_cast.h"
#include "tcl_features.h"
#include "tcl_split.h"

/* One tensor and its floats in a record, for the bodies that the cores share. */
struct part {
    float *data;
    int dim;
    unsigned char *kept;
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

/* Casts a tensor to the codes in a record, or back; their scale lies before them. */
static void cast_record(void (*cast)(void *), struct tcl_feature const *tensor, uint32_t *place)
{
    float scale;
    struct tcl_cast_args args = {tensor->data, (int8_t *)(place + 1), &scale, (int)tensor->dim};
    memcpy(&scale, place, sizeof scale);
    cast(&args);
    memcpy(place, &scale, sizeof scale);
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
        if (features->as_int8)
            cast_record(tcl_cast_fp32_int8_cl, t, place);
        else if (features->copy)
            features->copy(place, t->data, sizeof(float) * t->dim);
        else
            port_fork(copy_out, &part);
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
        if (features->as_int8)
            cast_record(tcl_cast_int8_fp32_cl, t, place);
        else if (features->copy)
            features->copy(t->data, place, sizeof(float) * t->dim);
        else
            port_fork(copy_in, &part);
        place += num_words(features, t->dim);
    }
    return port_cycles() - begin;
}

uint32_t const *tcl_features_of(struct tcl_features const *features, uint64_t sample)
{
    return record(features, sample) + 1;
}
