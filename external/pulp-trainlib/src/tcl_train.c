/* A training run: evaluates, trains for epochs on streamed samples, evaluates again, and hands back the
 * weights. */

#include "port.h"
#include "tcl_files.h"
#include "tcl_train.h"

/* What a run works with. */
struct run {
    struct tcl_net const *net;
    struct tcl_plan const *plan;
    struct tcl_samples samples;
    struct tcl_slots slots;
    struct tcl_position position;
    int log;
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

/* Reads a sample to where the net takes it from; returns its class. */
static uint32_t load_sample(struct run const *run, uint64_t index)
{
    struct tcl_net const *net = run->net;
    uint32_t label;
    require(tcl_samples_read(&run->samples, index, net->input, &label), index);
    for (uint32_t i = 0; i < net->num_classes; i++)
        net->label[i] = i == label ? 1.0f : 0.0f;
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

static void train_step(struct run *run)
{
    struct tcl_position *at = &run->position;
    uint64_t const num = run->samples.num_train;
    load_sample(run, tcl_shuffled(at->step, num, run->plan->seed, at->epoch));
    uint64_t const cycles = tcl_calls(run->net->calls, run->net->num_calls);
    tcl_log_write(run->log, 1 + at->epoch * num + at->step, run->net->loss, cycles);
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
    uint64_t const num_steps = run->position.epoch * run->samples.num_train + run->position.step;
    uint32_t const words[2] = {(uint32_t)num_steps, (uint32_t)(num_steps >> 32)};
    tcl_record(TCL_RECORD_RESUMED, 0, words, 2);
    return 1;
}

static void save(struct run *run)
{
    if (run->plan->checkpoint_every > 0)
        tcl_slots_save(&run->slots, &run->position);
}

/* Saves after every so many steps, and when the last is done. */
static void train(struct run *run)
{
    struct tcl_position const *at = &run->position;
    while (at->epoch < run->plan->num_epochs) {
        train_step(run);
        uint64_t const num_steps = at->epoch * run->samples.num_train + at->step;
        int const is_last = at->epoch == run->plan->num_epochs;
        if (run->plan->checkpoint_every > 0 && (is_last || num_steps % run->plan->checkpoint_every == 0))
            save(run);
    }
}

static void write_weights(struct run const *run)
{
    struct tcl_plan const *plan = run->plan;
    struct tcl_net const *net = run->net;
    int const region = port_open("weights.bin");
    uint32_t crc = tcl_crc32(0, plan->weights_header, plan->weights_header_bytes);
    crc = tcl_crc32(crc, net->trained, net->trained_bytes);
    port_write_at(region, 0, plan->weights_header, plan->weights_header_bytes);
    port_write_at(region, plan->weights_header_bytes, net->trained, net->trained_bytes);
    port_write_at(region, (uint64_t)plan->weights_header_bytes + net->trained_bytes, &crc, sizeof crc);
}

void tcl_train(struct tcl_net const *net, struct tcl_plan const *plan)
{
    struct run run = {.net = net, .plan = plan};
    for (int i = 0; i < 3; i++)
        run.samples.shape[i] = net->shape[i];
    run.samples.num_classes = net->num_classes;
    require(tcl_samples_open(&run.samples), 0);
    run.slots.run = plan->run;
    run.slots.samples = run.samples.id;
    run.slots.state = net->trained;
    run.slots.num_bytes = net->trained_bytes;
    run.log = port_open("log.bin");
    if (!resume(&run)) {
        evaluate(&run, 0);
        save(&run);
    }
    train(&run);
    evaluate(&run, 1 + plan->num_epochs * run.samples.num_train);
    write_weights(&run);
    tcl_record(TCL_RECORD_END, 0, NULL, 0);
}
