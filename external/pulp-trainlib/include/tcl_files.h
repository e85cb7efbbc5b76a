/* Reads and writes the device's files: samples, checkpoint slots, log. docs/device-files.md has the formats.

   Nothing that is read is trusted: every length is bounded, every record has a CRC, and what is wrong is
   returned as a code, never worked with. All numbers are little endian, as every target is. */
#ifndef TCL_FILES_H
#define TCL_FILES_H

#include <stddef.h>
#include <stdint.h>

/* What is wrong with a file; targets.py knows the same numbers. */
enum tcl_refusal {
    TCL_ACCEPTED = 0,
    TCL_NO_SAMPLES = 1,      /* no samples file: its magic is wrong, or it is too short for a header */
    TCL_SAMPLES_VERSION = 2, /* of another version of the format */
    TCL_SAMPLES_HEADER = 3,  /* the header's CRC is wrong */
    TCL_SAMPLES_SHAPE = 4,   /* images or classes of another net */
    TCL_SAMPLES_EMPTY = 5,   /* no training samples, or more than can be counted */
    TCL_SAMPLES_TRUNCATED = 6,
    TCL_SAMPLE_DAMAGED = 7, /* the CRC of a sample is wrong */
    TCL_SAMPLE_LABEL = 8,   /* a label is no class */
    TCL_SLOT_VERSION = 9,   /* of another version of the format */
    TCL_SLOT_OF_ANOTHER_RUN = 10,
    TCL_NO_SLOT = 11,       /* neither slot is whole: not an error at the start of a run */
    TCL_SAMPLES_NUMBER = 12 /* not as many training samples as the program keeps features of */
};

/* CRC-32 as of zlib: 0 to begin with, then the last result. */
uint32_t tcl_crc32(uint32_t crc, void const *data, size_t num_bytes);

/* The samples file. `num_pixels` (floats of an image) and `num_classes` are the net's. */
struct tcl_samples {
    int region;
    uint32_t shape[3]; /* channels, height, width */
    uint32_t num_classes;
    uint64_t num_train;
    uint64_t num_test;
    uint64_t id;
};

/* Opens the samples file and checks that it is one for the net: `shape` and `num_classes` are given. */
enum tcl_refusal tcl_samples_open(struct tcl_samples *samples);

/* Reads sample `index` (training samples first, then test samples): its image, channels x height x width
   floats, and its class. */
enum tcl_refusal tcl_samples_read(struct tcl_samples const *samples, uint64_t index, float *image,
                                  uint32_t *label);

/* Number i of the order in which `epoch` visits 0 .. num - 1, 0 < num <= 2^32: a permutation that takes no
 * memory. */
uint64_t tcl_shuffled(uint64_t i, uint64_t num, uint64_t seed, uint64_t epoch);

/* What a slot saves beside the position: the trained parameters, and what updates keep from step to step. */
struct tcl_block {
    void *data;
    uint32_t num_bytes; /* 0: nothing */
};
enum { TCL_NUM_BLOCKS = 2 };

/* Two slots, written in turn, so that one is whole at any time. `run` and `samples` name what they belong to.
 */
struct tcl_slots {
    int regions[2];
    uint64_t run;
    uint64_t samples;
    struct tcl_block blocks[TCL_NUM_BLOCKS];
    uint64_t sequence; /* of the newest slot */
    int newest;        /* its number */
};

/* Where a run stands: epochs that are over, and steps of the next one. */
struct tcl_position {
    uint64_t epoch;
    uint64_t step;
};

void tcl_slots_open(struct tcl_slots *slots);

/* Finds the newest whole slot; fills in blocks and position. TCL_NO_SLOT: there is none, and both are
 * untouched. */
enum tcl_refusal tcl_slots_load(struct tcl_slots *slots, struct tcl_position *position);

/* Writes the slot that is not the newest, which then is. */
void tcl_slots_save(struct tcl_slots *slots, struct tcl_position const *position);

/* Writes entry `index` of the log: a value, float or uint32_t, and cycles. The same entry again is the same
   bytes at the same place, so that steps that are done again after a cut leave no trace. */
void tcl_log_write(int region, uint64_t index, void const *value, uint64_t cycles);

/* Writes what is kept of a sample's features, so that they can be compared elsewhere: entries of one size. */
void tcl_features_write(int region, uint64_t sample, void const *data, uint32_t num_bytes);

#endif
