/* Walks a table of kernel calls and reports what the user asked to see. */

#include "port.h"
#include "tcl_run.h"

void tcl_record(int id, uint64_t step, void const *words, int num_words)
{
    uint32_t const header[4] = {(uint32_t)id, (uint32_t)num_words, (uint32_t)step, (uint32_t)(step >> 32)};
    port_write(header, sizeof header);
    if (num_words > 0)
        port_write(words, (size_t)num_words * 4);
}

/* Does one call; returns the cycles that it took. */
static uint64_t do_call(struct tcl_call const *call)
{
    uint64_t const start = port_cycles();
    if (call->fork)
        port_fork(call->kernel, call->args);
    else
        call->kernel(call->args);
    return port_cycles() - start;
}

/* Of a profile, what the call did: see TCL_RECORD_CALL. */
#ifdef TCL_PROFILE
uint64_t tcl_waited;

static uint64_t do_profiled(struct tcl_call const *call, uint64_t step)
{
    tcl_waited = 0;
    uint64_t const cycles = do_call(call);
    uint32_t const words[4] = {(uint32_t)cycles, (uint32_t)(cycles >> 32), (uint32_t)tcl_waited,
                               (uint32_t)(tcl_waited >> 32)};
    tcl_record(TCL_RECORD_CALL, step, words, 4);
    return cycles;
}
#else
static uint64_t do_profiled(struct tcl_call const *call, uint64_t step)
{
    (void)step;
    return do_call(call);
}
#endif

uint64_t tcl_calls(struct tcl_call const *calls, int num_calls)
{
    uint64_t cycles = 0;
    for (int i = 0; i < num_calls; i++)
        cycles += do_call(&calls[i]);
    return cycles;
}

void tcl_run(struct tcl_call const *calls, int num_calls, struct tcl_trace const *traces, uint64_t step)
{
    uint64_t cycles = 0;
    for (struct tcl_call const *call = calls; call < calls + num_calls; call++) {
        cycles += do_profiled(call, step);
        for (int i = call->first_trace; i < call->first_trace + call->num_traces; i++)
            tcl_record(i, step, traces[i].data, traces[i].dim);
    }
    uint32_t const words[2] = {(uint32_t)cycles, (uint32_t)(cycles >> 32)};
    tcl_record(TCL_RECORD_CYCLES, step, words, 2);
}
