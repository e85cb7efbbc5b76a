/* A training run: evaluates, trains for epochs on streamed samples, evaluates again, and hands back the
 * weights. */
#ifndef TCL_TRAIN_H
#define TCL_TRAIN_H

#include "tcl_run.h"

/* The net, as network.c lays it out. calls[0 .. num_forward - 1] compute `logits` from `input`; all of them
   are one training step, which leaves the loss. `trained` holds every trained parameter, one behind the
   other. */
struct tcl_net {
    float *input;
    float *label; /* one-hot */
    float const *logits;
    float const *loss;
    float *trained;
    uint32_t shape[3]; /* of the input: channels, height, width */
    uint32_t num_classes;
    uint32_t trained_bytes;
    struct tcl_call const *calls;
    int num_forward;
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
