/* A training run: evaluates, trains for epochs on streamed samples, evaluates again, and hands back the
 * weights. */

#include "port.h"
#include "tcl_features.h"
#include "tcl_files.h"
#include "tcl_train.h"
#include "tcl_update_fp32.h"

/* What a run works with. */
struct run {
    struct tcl_net const *net;
    struct tcl_plan const *plan;
    struct tcl_samples samples;
    struct tcl_slots slots;
    struct tcl_position position;
    int log;
    int features; /* the storage for what int8 features are compared with */
};

/* Ends the program if a file was refused; `index` says which sample. */
static void require(enum tcl_refusal refusal, uint64_t index)
{
    if (refusal == TCL_ACCEPTED)
        return;
    uint32_t const words[2] = {(uint32_t)index, (uint32_t)(index >> 32)};
    tcl_record(TCL_RECORD_REFUSED, refusal, words, 2);
    port_panic(__FILE__, __LINE__);
}

static void set_label(struct tcl_net const *net, uint32_t label)
{
    for (uint32_t i = 0; i < net->num_classes; i++)
        net->label[i] = i == label ? 1.0f : 0.0f;
}

/* Reads a sample to where the net takes it from; returns its class. */
static uint32_t load_sample(struct run const *run, uint64_t index)
{
    struct tcl_net const *net = run->net;
    uint32_t label;
    require(tcl_samples_read(&run->samples, index, net->input, &label), index);
    set_label(net, label);
    return label;
}

static uint32_t predicted_class(struct tcl_net const *net)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < net->num_classes; i++)
        if (net->logits[i] > net->logits[best])
            best = i;
    return best;
}

/* Counts the test samples that the net calls right, and writes that to the log. */
static void evaluate(struct run const *run, uint64_t log_index)
{
    uint32_t num_right = 0;
    uint64_t cycles = 0;
    for (uint64_t i = 0; i < run->samples.num_test; i++) {
        uint32_t const label = load_sample(run, run->samples.num_train + i);
        cycles += tcl_calls(run->net->calls, run->net->num_forward);
        num_right += predicted_class(run->net) == label;
    }
    tcl_log_write(run->log, log_index, &num_right, cycles);
}

/* Counts the steps that are done. */
static uint64_t num_steps(struct run const *run)
{
    return run->position.epoch * run->samples.num_train + run->position.step;
}

/* Sets the rule for the next step; returns how many calls that has. Batches go on across the end of an epoch,
   and samples at the end of the run that do not fill one change no weight. */
static int begin_step(struct run const *run)
{
    struct tcl_net const *net = run->net;
    if (!net->rule)
        return net->num_calls;
    net->rule_at(net->rule, num_steps(run));
    return net->rule->sample < net->rule->batch - 1 ? net->num_calls_within_batch : net->num_calls;
}

/* Brings the net to behind its frozen part: computes that for a sample that was not seen since the start of
   the program, and recalls it for others. Both see what is kept, so that an epoch sees the same values as the
   one before. Returns the cycles that took. */
static uint64_t pass_frozen_part(struct run const *run, uint64_t sample)
{
    struct tcl_net const *net = run->net;
    struct tcl_features const *features = net->features;
    uint64_t cycles = 0;
    uint32_t label;
    if (!tcl_features_kept(features, sample, &label)) {
        label = load_sample(run, sample);
        cycles += tcl_calls(net->calls, features->num_calls);
        cycles += tcl_features_keep(features, sample, label);
        if (features->as_int8)
            tcl_features_write(run->features, sample, tcl_features_of(features, sample),
                               4 * (features->record_words - 1));
    }
    set_label(net, label);
    return cycles + tcl_features_recall(features, sample);
}

static void train_step(struct run *run)
{
    struct tcl_net const *net = run->net;
    struct tcl_position *at = &run->position;
    uint64_t const num = run->samples.num_train;
    uint64_t const sample = tcl_shuffled(at->step, num, run->plan->seed, at->epoch);
    int const num_calls = begin_step(run), num_passed = net->features ? net->features->num_calls : 0;
    uint64_t cycles = 0;
    if (net->features)
        cycles = pass_frozen_part(run, sample);
    else
        load_sample(run, sample);
    cycles += tcl_calls(net->calls + num_passed, num_calls - num_passed);
    tcl_log_write(run->log, 1 + num_steps(run), run->net->loss, cycles);
    at->step++;
    if (at->step == num) {
        at->epoch++;
        at->step = 0;
    }
}

/* Goes on from the newest checkpoint, and says so; returns 0 if there is none. */
static int resume(struct run *run)
{
    if (run->plan->checkpoint_every == 0)
        return 0;
    tcl_slots_open(&run->slots);
    enum tcl_refusal const refusal = tcl_slots_load(&run->slots, &run->position);
    if (refusal == TCL_NO_SLOT)
        return 0;
    require(refusal, 0);
    if (run->position.epoch > run->plan->num_epochs || run->position.step >= run->samples.num_train)
        require(TCL_SLOT_OF_ANOTHER_RUN, 0);
    uint64_t const done = num_steps(run);
    uint32_t const words[2] = {(uint32_t)done, (uint32_t)(done >> 32)};
    tcl_record(TCL_RECORD_RESUMED, 0, words, 2);
    return 1;
}

/* What a run that goes on from here will not write again is stored first. */
static void save(struct run *run)
{
    if (run->plan->checkpoint_every == 0)
        return;
    port_sync(run->log);
    if (run->net->features && run->net->features->as_int8)
        port_sync(run->features);
    tcl_slots_save(&run->slots, &run->position);
}

/* Saves after every so many steps, and when the last is done. */
static void train(struct run *run)
{
    struct tcl_position const *at = &run->position;
    while (at->epoch < run->plan->num_epochs) {
        train_step(run);
        int const is_last = at->epoch == run->plan->num_epochs;
        if (run->plan->checkpoint_every > 0 && (is_last || num_steps(run) % run->plan->checkpoint_every == 0))
            save(run);
    }
}

static void write_weights(struct run const *run)
{
    struct tcl_plan const *plan = run->plan;
    struct tcl_net const *net = run->net;
    int const region = port_open("weights.bin");
    uint32_t crc = tcl_crc32(0, plan->weights_header, plan->weights_header_bytes);
    uint64_t offset = plan->weights_header_bytes;
    port_write_at(region, 0, plan->weights_header, plan->weights_header_bytes);
    for (int i = 0; i < net->num_segments; i++) {
        struct tcl_segment const *const s = &net->segments[i];
        crc = tcl_crc32(crc, s->data, s->num_bytes);
        port_write_at(region, offset, s->data, s->num_bytes);
        offset += s->num_bytes;
    }
    port_write_at(region, offset, &crc, sizeof crc);
    port_sync(region);
}

void tcl_train(struct tcl_net const *net, struct tcl_plan const *plan)
{
    struct run run = {.net = net, .plan = plan};
    for (int i = 0; i < 3; i++)
        run.samples.shape[i] = net->shape[i];
    run.samples.num_classes = net->num_classes;
    require(tcl_samples_open(&run.samples), 0);
    if (net->features && run.samples.num_train != net->features->num_samples)
        require(TCL_SAMPLES_NUMBER, 0);
    run.slots.run = plan->run;
    run.slots.samples = run.samples.id;
    run.slots.blocks[0] = (struct tcl_block){net->trained, net->trained_bytes};
    run.slots.blocks[1] = (struct tcl_block){net->state, net->state_bytes};
    run.log = port_open("log.bin");
    if (net->features && net->features->as_int8)
        run.features = port_open("features.bin");
    if (!resume(&run)) {
        evaluate(&run, 0);
        save(&run);
    }
    train(&run);
    evaluate(&run, 1 + plan->num_epochs * run.samples.num_train);
    write_weights(&run);
    tcl_record(TCL_RECORD_END, 0, NULL, 0);
}
