/* Copies between L2 and L1 on the PULP SDK, through PMSIS.

   PMSIS gives each copy one of the DMA's counters until the copy was waited for. A core that finds none left
   would wait for one while it holds the lock that others need to free theirs: so each core has a fixed share,
   and waits for its oldest copy when it starts one too many. */

#include "pmsis.h"
#include "port_dma.h"

enum { COUNTERS = 16, SHARE = COUNTERS / NUM_CORES };

typedef char every_core_has_counters[SHARE > 0 ? 1 : -1];

/* The copies of a core's open group, in a ring. */
struct group {
    pi_cl_dma_cmd_t copies[SHARE];
    int num_started, num_done;
};

static PI_L1 struct group groups[NUM_CORES];

int port_dma_open(void)
{
    int const core = port_core_id();
    groups[core].num_started = groups[core].num_done = 0;
    return core;
}

static void wait_for_oldest(struct group *group)
{
    pi_cl_dma_cmd_wait(&group->copies[group->num_done++ % SHARE]);
}

static void start(uint32_t loc, uint32_t ext, int row_bytes, int num_rows, int stride_bytes,
                  pi_cl_dma_dir_e dir)
{
    port_dma_check(row_bytes, num_rows, stride_bytes);
    struct group *const group = &groups[port_core_id()];
    uint32_t const num_bytes = (uint32_t)row_bytes * (uint32_t)num_rows;
    if (group->num_started - group->num_done == SHARE)
        wait_for_oldest(group);
    pi_cl_dma_cmd_t *const copy = &group->copies[group->num_started++ % SHARE];
    if (num_rows > 1 && row_bytes != stride_bytes)
        pi_cl_dma_cmd_2d(ext, loc, num_bytes, (uint32_t)stride_bytes, (uint32_t)row_bytes, dir, copy);
    else
        pi_cl_dma_cmd(ext, loc, num_bytes, dir, copy);
}

void port_dma_load(void *l1, void const *l2, int row_bytes, int num_rows, int stride_bytes)
{
    start((uint32_t)l1, (uint32_t)l2, row_bytes, num_rows, stride_bytes, PI_CL_DMA_DIR_EXT2LOC);
}

void port_dma_store(void *l2, void const *l1, int row_bytes, int num_rows, int stride_bytes)
{
    start((uint32_t)l1, (uint32_t)l2, row_bytes, num_rows, stride_bytes, PI_CL_DMA_DIR_LOC2EXT);
}

void port_dma_wait(int group)
{
    while (groups[group].num_done < groups[group].num_started)
        wait_for_oldest(&groups[group]);
    __asm__ volatile("" ::: "memory");
}

void port_barrier(void)
{
    if (NUM_CORES > 1)
        pi_cl_team_barrier();
}
