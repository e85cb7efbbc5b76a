/* A training run: evaluates, trains for epochs on streamed samples, evaluates again, and hands back the
 * weights. */
#ifndef TCL_TRAIN_H
#define TCL_TRAIN_H

#include "tcl_run.h"

struct tcl_features;
struct tcl_rule;

/* A piece of what is trained. */
struct tcl_segment {
    float const *data;
    uint32_t num_bytes;
};

/* The net, as network.c lays it out. calls[0 .. num_forward - 1] compute `logits` from `input`; all of them
   are one training step, which leaves the loss. Of a sample that does not complete a batch only the first
   num_calls_within_batch are done. `trained` holds every parameter that is trained in whole or in part, one
   behind the other; `segments` are only what is trained of it. */
struct tcl_net {
    float *input;
    float *label; /* one-hot */
    float const *logits;
    float const *loss;
    float *trained;
    float *state;          /* what is kept from step to step beside them; NULL: nothing */
    struct tcl_rule *rule; /* how weights are updated; NULL: by calls that need none */
    void (*rule_at)(struct tcl_rule *rule,
                    uint64_t num_samples); /* tcl_rule_at, linked where there is a rule */
    struct tcl_features const *features;   /* what is kept of the samples; NULL: nothing */
    uint32_t shape[3];                     /* of the input: channels, height, width */
    uint32_t num_classes;
    uint32_t trained_bytes;
    struct tcl_segment const *segments;
    int num_segments;
    uint32_t state_bytes;
    struct tcl_call const *calls;
    int num_forward;
    int num_calls_within_batch;
    int num_calls;
};

/* What is to be done. `run` names net, starting weights and settings: checkpoints of another run are refused.
   `weights_header` is what the weights file begins with. checkpoint_every 0: no checkpoints. */
struct tcl_plan {
    uint64_t run;
    uint64_t seed;
    uint64_t num_epochs;
    uint64_t checkpoint_every; /* steps */
    void const *weights_header;
    uint32_t weights_header_bytes;
};

/* Does all of it, going on from the newest checkpoint if there is one. What it cannot use it refuses: a
   record on the result stream says why, and the port ends the program. */
void tcl_train(struct tcl_net const *net, struct tcl_plan const *plan);

#endif
