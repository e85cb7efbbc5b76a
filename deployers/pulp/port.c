/* Port to the pulp-open cluster, bare metal: work is handed out by the cluster's event unit.

   Registers and their meaning: the event unit, cluster control and timer of pulp-open. */

#include "port.h"
#include "semihost.h"

#define REGISTER(address) (*(uint32_t volatile *)(address))

/* Fabric controller's view of the cluster. */
#define CLUSTER_FETCH_ENABLE REGISTER(0x10200008)
#define CLUSTER_BOOT_ADDRESS(core) REGISTER(0x10200040 + 4 * (core))
#define CLUSTER_ICACHE_ENABLE REGISTER(0x10201400)
#define SOC_EXIT REGISTER(0x1A1040A0)

/* Cluster timer, 32 bits. */
#define TIMER_CONTROL REGISTER(0x10200400)
#define TIMER_COUNT REGISTER(0x10200408)

/* Event unit, as each core of the cluster sees it. */
#define EVENT_UNIT 0x10204000
#define EVENT_MASK_SET REGISTER(EVENT_UNIT + 0x08)
#define DISPATCH_PUSH REGISTER(EVENT_UNIT + 0x80)
#define DISPATCH_TEAM REGISTER(EVENT_UNIT + 0x84)
#define BARRIER_TRIGGER_TEAM REGISTER(EVENT_UNIT + 0x200)
#define BARRIER_TARGET_TEAM REGISTER(EVENT_UNIT + 0x20C)
enum { EVENT_BARRIER = 1 << 16, EVENT_DISPATCH = 1 << 18 };
enum { TEAM = (1 << NUM_CORES) - 1 };

int port_core_id(void)
{
    uint32_t hart;
    __asm__("csrr %0, mhartid" : "=r"(hart)); /* cluster << 5 | core */
    return (int)(hart & 0x1f);
}

/* Event-unit loads that put the core to sleep until the event comes (p.elw): pop of the dispatch FIFO,
 * barrier 0. */
static inline uint32_t dispatch_pop(void)
{
    uint32_t value;
    __asm__ volatile(".insn i 0x03, 6, %0, %1, 0x80" : "=r"(value) : "r"(EVENT_UNIT) : "memory");
    return value;
}

static inline void barrier(void)
{
    uint32_t ignored;
    __asm__ volatile(".insn i 0x03, 6, %0, %1, 0x21c" : "=r"(ignored) : "r"(EVENT_UNIT) : "memory");
}

void port_worker(void);
void port_worker(void)
{
    EVENT_MASK_SET = EVENT_BARRIER | EVENT_DISPATCH;
    for (;;) {
        void (*body)(void *) = (void (*)(void *))dispatch_pop();
        void *arg = (void *)dispatch_pop();
        body(arg);
        barrier();
    }
}

void port_fork(void (*body)(void *), void *arg)
{
    if (NUM_CORES > 1) {
        DISPATCH_TEAM = TEAM & ~1;
        DISPATCH_PUSH = (uint32_t)body;
        DISPATCH_PUSH = (uint32_t)arg;
    }
    body(arg);
    if (NUM_CORES > 1)
        barrier();
}

/* The timer has 32 bits: calls must be less than 2^32 cycles apart (24 s at 175 MHz), then no wrap is missed.
 */
uint64_t port_cycles(void)
{
    static uint32_t last, wraps;
    uint32_t const now = TIMER_COUNT;
    wraps += now < last;
    last = now;
    return (uint64_t)wraps << 32 | now;
}

void port_stop(unsigned status)
{
    SOC_EXIT = 0x80000000u | status;
    for (;;)
        __asm__ volatile("wfi");
}

void port_master(void);
void port_master(void)
{
    EVENT_MASK_SET = EVENT_BARRIER | EVENT_DISPATCH;
    BARRIER_TRIGGER_TEAM = TEAM;
    BARRIER_TARGET_TEAM = TEAM;
    TIMER_CONTROL = 1;
    semihost_create_results();
    tcl_main();
    port_stop(0);
}

/* On the fabric controller. */
void port_start_cluster(uint32_t entry);
void port_start_cluster(uint32_t entry)
{
    CLUSTER_ICACHE_ENABLE = 0xFFFFFFFFu;
    for (int core = 0; core < NUM_CORES; core++)
        CLUSTER_BOOT_ADDRESS(core) = entry;
    CLUSTER_FETCH_ENABLE = TEAM;
    for (;;)
        __asm__ volatile("wfi");
}
