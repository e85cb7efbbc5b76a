/* Keeps what the frozen part of a net gives for each training sample, so that later epochs leave it out. */
#ifndef TCL_FEATURES_H
#define TCL_FEATURES_H

#include <stddef.h>
#include <stdint.h>

/* A tensor that crosses from the frozen part into the trained one. */
struct tcl_feature {
    float *data;
    uint32_t dim;
};

/* calls[0 .. num_calls - 1] of the net are the frozen part. A record of record_words has a word that is 0
   while the sample was not seen, then 1 + its class; then for each tensor its floats, or with as_int8 a
   float, the scale, and a signed byte for each element, filled up to a whole word. `records` is zero at the
   start. `copy` moves floats from and to records; NULL: the cores share that. */
struct tcl_features {
    struct tcl_feature const *tensors;
    int num_tensors;
    int num_calls;
    int as_int8;
    uint32_t record_words;
    uint64_t num_samples;
    uint32_t *records;
    void (*copy)(void *to, void const *from, size_t num_bytes);
};

/* Tells whether the features of `sample` are kept; if so, sets its class. */
int tcl_features_kept(struct tcl_features const *features, uint64_t sample, uint32_t *label);

/* Keeps what the tensors hold; returns the cycles that took. int8: scale = max|x| / 127, and each x becomes
   x / scale rounded to the nearest, halves to even. */
uint64_t tcl_features_keep(struct tcl_features const *features, uint64_t sample, uint32_t label);

/* Writes what is kept of `sample` to the tensors; returns the cycles that took. */
uint64_t tcl_features_recall(struct tcl_features const *features, uint64_t sample);

/* Returns what is kept of `sample` behind the word with its class: record_words - 1 words. */
uint32_t const *tcl_features_of(struct tcl_features const *features, uint64_t sample);

#endif
