/* The cluster's DMA (MCHAN) and its barrier, as each core of the cluster sees them. */

#include "port_dma.h"

#define REGISTER(address) (*(uint32_t volatile *)(address))
#define DMA_COMMAND REGISTER(0x10204400) /* load: number of a new group; stores: a command, word by word */
#define DMA_STATUS REGISTER(0x10204404)  /* load: bit of a group: under way; store: frees groups */
#define EVENT_UNIT 0x10204000

enum { SIZE_BITS = 17, INCREMENT = 1 << 18, IN_ROWS = 1 << 19 };

int port_dma_open(void)
{
    return (int)DMA_COMMAND;
}

void port_dma_start(void *l1, void *l2, int row_bytes, int num_rows, int stride_bytes,
                    enum port_dma_direction direction)
{
    port_dma_check(row_bytes, num_rows, stride_bytes);
    int const in_rows = num_rows > 1 && row_bytes != stride_bytes;
    uint32_t const size = (uint32_t)(row_bytes * num_rows);
    DMA_COMMAND = size | (uint32_t)direction << SIZE_BITS | INCREMENT | (in_rows ? IN_ROWS : 0);
    DMA_COMMAND = (uint32_t)l1;
    DMA_COMMAND = (uint32_t)l2;
    if (in_rows) {
        DMA_COMMAND = (uint32_t)row_bytes;
        DMA_COMMAND = (uint32_t)stride_bytes;
    }
}

void port_dma_wait(int group)
{
    uint32_t const bit = 1u << group;
    while (DMA_STATUS & bit)
        ;
    DMA_STATUS = bit;
    __asm__ volatile("" ::: "memory");
}

void port_barrier(void)
{
    uint32_t ignored;
    if (NUM_CORES > 1)
        __asm__ volatile(".insn i 0x03, 6, %0, %1, 0x21c" : "=r"(ignored) : "r"(EVENT_UNIT) : "memory");
}
