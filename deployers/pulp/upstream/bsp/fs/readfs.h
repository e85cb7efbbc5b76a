/* Upstream's headers name a file of the PULP SDK's file systems; no fp32 kernel uses it. */
#ifndef READFS_H
#define READFS_H

typedef struct pi_fs_file_s pi_fs_file_t;

#endif
