/* What deployers/pulp/sdk takes from the PULP SDK, only declared: its sources compile without the SDK. */
#ifndef PMSIS_H
#define PMSIS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define PI_L1 __attribute__((section(".data_l1")))

struct pi_device {
    void *config;
};
struct pi_cluster_conf {
    int id;
};
struct pi_cluster_task {
    uint32_t stack_size, slave_stack_size;
};
typedef struct {
    void (*entry)(void *);
} pi_callback_t;
typedef struct {
    int id;
    void *next;
} pi_cl_dma_cmd_t;
typedef enum { PI_CL_DMA_DIR_LOC2EXT, PI_CL_DMA_DIR_EXT2LOC } pi_cl_dma_dir_e;
enum { PI_PERF_CYCLES };

int pmsis_kickoff(void *entry);
void pmsis_exit(int status);
uint32_t pi_cluster_id(void);
uint32_t pi_core_id(void);
void pi_cluster_conf_init(struct pi_cluster_conf *conf);
void pi_open_from_conf(struct pi_device *device, void *conf);
int pi_cluster_open(struct pi_device *cluster);
int pi_cluster_close(struct pi_device *cluster);
struct pi_cluster_task *pi_cluster_task(struct pi_cluster_task *task, void (*entry)(void *), void *arg);
int pi_cluster_send_task_to_cl(struct pi_device *cluster, struct pi_cluster_task *task);
void pi_callback_init(pi_callback_t *callback, void (*entry)(void *), void *arg);
void pi_cl_send_callback_to_fc(pi_callback_t *callback);
void cl_notify_task_done(uint8_t *done, uint8_t cluster);
void cl_wait_task(uint8_t *done);
void pi_cl_team_fork(int num_cores, void (*body)(void *), void *arg);
void pi_cl_team_barrier(void);
void pi_cl_dma_cmd(uint32_t ext, uint32_t loc, uint32_t size, pi_cl_dma_dir_e dir, pi_cl_dma_cmd_t *cmd);
void pi_cl_dma_cmd_2d(uint32_t ext, uint32_t loc, uint32_t size, uint32_t stride, uint32_t length,
                      pi_cl_dma_dir_e dir, pi_cl_dma_cmd_t *cmd);
void pi_cl_dma_cmd_wait(pi_cl_dma_cmd_t *cmd);
void pi_perf_conf(unsigned events);
void pi_perf_cl_reset(void);
void pi_perf_cl_start(void);
uint32_t pi_perf_cl_read(int event);

#endif
