/* Port to the PULP SDK: the cluster through PMSIS, files through the debugger or simulator that holds the
   chip.

   The fabric controller does the semihosting calls, since debuggers serve it only; the cluster's core 0 asks
   it. */

#include "pmsis.h"
#include "port.h"

/* port/semihost.c, for the fabric controller, under other names. */
void fc_panic(char const *file, int line) __attribute__((noreturn));
#define port_open fc_open
#define port_read_at fc_read_at
#define port_write_at fc_write_at
#define port_write fc_write
#define port_panic fc_panic
#include "../port/semihost.c"
#undef port_open
#undef port_read_at
#undef port_write_at
#undef port_write
#undef port_panic

/* Stacks lie in L1, beside 48 KiB of tiles and some hundred bytes of the SDK's own. Core 0 calls the SDK. */
enum { STACK_BYTES = 4096, WORKER_STACK_BYTES = 1536 };

typedef char stacks_lie_behind[STACK_BYTES + (NUM_CORES - 1) * WORKER_STACK_BYTES >= PORT_L1_BEHIND ? 1 : -1];

/* What core 0 of the cluster asks of the fabric controller. */
struct request {
    enum { REQUEST_OPEN, REQUEST_READ, REQUEST_WRITE, REQUEST_APPEND } kind;
    char const *name;
    int region;
    uint64_t offset;
    void *data;
    void const *source;
    size_t num_bytes;
    int cluster;
    uint8_t done;
    pi_callback_t callback;
};

/* On the fabric controller. */
static void serve(void *arg)
{
    struct request *request = arg;
    switch (request->kind) {
    case REQUEST_OPEN:
        request->region = fc_open(request->name);
        break;
    case REQUEST_READ:
        request->num_bytes = fc_read_at(request->region, request->offset, request->data, request->num_bytes);
        break;
    case REQUEST_WRITE:
        fc_write_at(request->region, request->offset, request->source, request->num_bytes);
        break;
    case REQUEST_APPEND:
        fc_write(request->source, request->num_bytes);
        break;
    }
    cl_notify_task_done(&request->done, (uint8_t)request->cluster);
}

/* On core 0 of the cluster: sleeps until the fabric controller is done. */
static void ask(struct request *request)
{
    request->cluster = (int)pi_cluster_id();
    request->done = 0;
    pi_callback_init(&request->callback, serve, request);
    pi_cl_send_callback_to_fc(&request->callback);
    cl_wait_task(&request->done);
}

int port_open(char const *name)
{
    struct request request = {.kind = REQUEST_OPEN, .name = name};
    ask(&request);
    return request.region;
}

size_t port_read_at(int region, uint64_t offset, void *data, size_t num_bytes)
{
    struct request request = {
        .kind = REQUEST_READ, .region = region, .offset = offset, .data = data, .num_bytes = num_bytes};
    ask(&request);
    return request.num_bytes;
}

void port_write_at(int region, uint64_t offset, void const *data, size_t num_bytes)
{
    struct request request = {
        .kind = REQUEST_WRITE, .region = region, .offset = offset, .source = data, .num_bytes = num_bytes};
    ask(&request);
}

void port_write(void const *data, size_t num_bytes)
{
    struct request request = {.kind = REQUEST_APPEND, .source = data, .num_bytes = num_bytes};
    ask(&request);
}

int port_core_id(void)
{
    return (int)pi_core_id();
}

void port_fork(void (*body)(void *), void *arg)
{
    pi_cl_team_fork(NUM_CORES, body, arg);
}

/* The cluster's timer has 32 bits: calls must be less than 2^32 cycles apart, then no wrap is missed. */
uint64_t port_cycles(void)
{
    static uint32_t last, wraps;
    uint32_t const now = pi_perf_cl_read(PI_PERF_CYCLES);
    wraps += now < last;
    last = now;
    return (uint64_t)wraps << 32 | now;
}

void port_stop(unsigned status)
{
    exit((int)status);
    for (;;)
        ;
}

void port_panic(char const *file, int line)
{
    printf("%s:%d: check failed\n", file, line);
    port_stop(1);
}

/* On core 0 of the cluster. */
static void run(void *arg)
{
    (void)arg;
    pi_perf_conf(1 << PI_PERF_CYCLES);
    pi_perf_cl_reset();
    pi_perf_cl_start();
    tcl_main();
}

/* On the fabric controller. */
static void kickoff(void *arg)
{
    static struct pi_device cluster;
    static struct pi_cluster_conf conf;
    static struct pi_cluster_task task;
    (void)arg;
    semihost_create_results();
    pi_cluster_conf_init(&conf);
    conf.id = 0;
    pi_open_from_conf(&cluster, &conf);
    if (pi_cluster_open(&cluster)) {
        printf("the cluster did not open\n");
        pmsis_exit(1);
    }
    pi_cluster_task(&task, run, NULL);
    task.stack_size = STACK_BYTES;
    task.slave_stack_size = WORKER_STACK_BYTES;
    int const sent = pi_cluster_send_task_to_cl(&cluster, &task);
    if (sent)
        printf("the cluster did not take the task\n");
    pi_cluster_close(&cluster);
    pmsis_exit(sent ? 1 : 0);
}

int main(void)
{
    return pmsis_kickoff((void *)kickoff);
}
