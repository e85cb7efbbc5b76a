/* Port to QEMU's riscv32 virt machine: harts sleep in wfi until a software interrupt brings work. */

#include "port.h"
#include "semihost.h"

/* Core-local interruptor (one word a hart raises its software interrupt) and test finisher of the virt
 * machine. */
static uint32_t volatile *const software_interrupt = (uint32_t volatile *)0x02000000;
static uint32_t volatile *const finisher = (uint32_t volatile *)0x00100000;

static void (*volatile current_body)(void *);
static void *volatile current_arg;
static int num_running;

int port_core_id(void)
{
    int id;
    __asm__ volatile("csrr %0, mhartid" : "=r"(id));
    return id;
}

/* Sleeps until this hart's software interrupt is raised, then clears it. */
static void wait_for_interrupt(void)
{
    int const id = port_core_id();
    while (!software_interrupt[id])
        __asm__ volatile("wfi");
    software_interrupt[id] = 0;
    __sync_synchronize();
}

void port_worker(void);
void port_worker(void)
{
    for (;;) {
        wait_for_interrupt();
        current_body(current_arg);
        if (__sync_sub_and_fetch(&num_running, 1) == 0)
            software_interrupt[0] = 1;
    }
}

void port_fork(void (*body)(void *), void *arg)
{
    current_body = body;
    current_arg = arg;
    num_running = NUM_CORES - 1;
    __sync_synchronize();
    for (int i = 1; i < NUM_CORES; i++)
        software_interrupt[i] = 1;
    body(arg);
    if (NUM_CORES > 1)
        wait_for_interrupt();
}

uint64_t port_cycles(void)
{
    uint32_t low, high, again;
    do {
        __asm__ volatile("csrr %0, mcycleh\n"
                         "csrr %1, mcycle\n"
                         "csrr %2, mcycleh"
                         : "=r"(high), "=r"(low), "=r"(again));
    } while (high != again);
    return (uint64_t)high << 32 | low;
}

void port_stop(unsigned status)
{
    *finisher = status ? status << 16 | 0x3333 : 0x5555;
    for (;;)
        __asm__ volatile("wfi");
}

void port_master(void);
void port_master(void)
{
    semihost_create_results();
    tcl_main();
    port_stop(0);
}
