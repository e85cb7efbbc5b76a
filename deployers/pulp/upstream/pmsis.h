/* What upstream's PULP-TrainLib takes from PMSIS, over port.h: its fp32 kernels run without the PULP SDK.

   Names and meaning: PMSIS. What is only declared is named by
   headers and functions that are not used: a program that came to use it does not link. */
#ifndef PMSIS_H
#define PMSIS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "port.h"

typedef uint16_t float16alt; /* the functions that take it are not linked */

#define PI_L1
#define PI_L2

static inline int pi_core_id(void)
{
    return port_core_id();
}

/* Upstream always asks for the whole team. */
static inline void pi_cl_team_fork(int num_cores, void (*body)(void *), void *arg)
{
    PORT_CHECK(num_cores == NUM_CORES);
    port_fork(body, arg);
}

/* Upstream prints when its contract is broken, and goes on. Here that ends the program and names the line. */
#define printf(...) port_panic(__FILE__, __LINE__)

/* Linked, because im2col names it, and reached only with USE_DMA_IM2COL, which emitted networks do not set.
 */
typedef struct {
    uint32_t ext, loc, id;
    uint32_t size, stride, length;
    int dir, merge;
} pi_cl_dma_copy_2d_t;

enum { PI_CL_DMA_DIR_LOC2EXT, PI_CL_DMA_DIR_EXT2LOC };

static inline void pi_cl_dma_memcpy_2d(pi_cl_dma_copy_2d_t *copy)
{
    (void)copy;
    port_panic(__FILE__, __LINE__);
}

static inline void pi_cl_dma_wait(void *copy)
{
    (void)copy;
    port_panic(__FILE__, __LINE__);
}

/* Only declared. */
typedef struct pi_cl_dma_cmd_s pi_cl_dma_cmd_t;
void pi_cl_team_barrier(void);
void pi_cl_dma_cmd_2d(uint32_t ext, uint32_t loc, uint32_t size, uint32_t stride, uint32_t length, int dir,
                      pi_cl_dma_cmd_t *cmd);
void pi_cl_dma_cmd_wait(pi_cl_dma_cmd_t *cmd);

#endif
