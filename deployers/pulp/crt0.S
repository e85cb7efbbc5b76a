/* Start of pulp-open: the fabric controller clears .bss and starts the cluster; its core 0 is the program's. */
#define FC_STACK_BYTES 1024
#define STACK_BYTES 2048

    .option norvc
    .option norelax
    .section .vectors, "ax"
    .globl _start
vectors:                   /* the boot address & ~0xff */
    .rept 32
    j trap
    .endr
_start:
    la sp, fc_stack_end
    la t1, bss_start
    la t2, bss_end
1:  bgeu t1, t2, 2f
    sw zero, 0(t1)
    addi t1, t1, 4
    j 1b
2:  la a0, cluster_start
    j port_start_cluster
trap:
    j port_trap

/* Every core of the cluster starts here. */
    .balign 256
cluster_start:
    csrr t0, mhartid
    andi t0, t0, 0x1f
    la sp, stacks
    li t1, STACK_BYTES
    addi t2, t0, 1
    mul t1, t1, t2
    add sp, sp, t1
    la t1, vectors
    csrw mtvec, t1
    bnez t0, 3f
    j port_master
3:  j port_worker

    .section .fc_stack, "aw", @nobits
    .balign 16
    .space FC_STACK_BYTES
fc_stack_end:
    .section .stacks, "aw", @nobits
    .balign 16
stacks:
    .space STACK_BYTES * NUM_CORES
