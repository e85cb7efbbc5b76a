/* Walks a table of kernel calls and reports what the user asked to see. */
#ifndef TCL_RUN_H
#define TCL_RUN_H

#include <stdint.h>

/* A tensor to report when the call that writes it is done. */
struct tcl_trace {
    float const *data;
    int dim;
};

/* One step of time: one kernel call. Kernels that do not fork by themselves and share their work among the
   cores have `fork` set. traces[first_trace .. first_trace + num_traces - 1] are reported after the call. */
struct tcl_call {
    void (*kernel)(void *args);
    void *args;
    int fork;
    int first_trace;
    int num_traces;
};

/* Records of the result stream, in the target's byte order: id, number of 32-bit words, step (two words, low
   first), then the words.
   The id is an index into the table of traces, or one of these. */
enum {
    TCL_RECORD_CYCLES = -1,  /* two words, low first: cycles spent in the calls of a step */
    TCL_RECORD_END = -2,     /* no words: the run is complete */
    TCL_RECORD_REFUSED = -3, /* step: what is wrong (enum tcl_refusal); two words: the number of a sample */
    TCL_RECORD_RESUMED = -4, /* two words: steps that a checkpoint had behind it */
    TCL_RECORD_CALL = -5 /* with TCL_PROFILE (2: stalls too), for each call in order: four words, low first:
                            the cycles that it took, and of these tcl_waited */
};

#ifdef TCL_PROFILE
/* Cycles of a call in which all cores had nothing to compute and waited for copies of the DMA. */
extern uint64_t tcl_waited;
#endif

/* Writes one record to the result stream. */
void tcl_record(int id, uint64_t step, void const *words, int num_words);

/* Does all calls in order, once; returns the cycles that the kernels took. */
uint64_t tcl_calls(struct tcl_call const *calls, int num_calls);

/* Does all calls in order, once; reports traces and the cycles that the kernels took. */
void tcl_run(struct tcl_call const *calls, int num_calls, struct tcl_trace const *traces, uint64_t step);

#endif
