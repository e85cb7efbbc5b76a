/* Start of every hart: floating point on, a stack of its own; hart 0 clears .bss and becomes core 0. */
#define STACK_BYTES 16384

    .section .text.start, "ax"
    .globl _start
_start:
    csrr t0, mhartid
    la sp, stacks
    li t1, STACK_BYTES
    addi t2, t0, 1
    mul t1, t1, t2
    add sp, sp, t1
    li t1, 0x2000          /* mstatus.FS = initial */
    csrs mstatus, t1
    li t1, 0x8             /* mie.MSIE: a software interrupt ends wfi; mstatus.MIE stays 0, so nothing traps */
    csrw mie, t1
    la t1, trap
    csrw mtvec, t1
    beqz t0, master
    j port_worker
master:
    la t1, bss_start
    la t2, bss_end
1:  bgeu t1, t2, 2f
    sw zero, 0(t1)
    addi t1, t1, 4
    j 1b
2:  j port_master
    .balign 4
trap:
    j port_trap

    .section .stacks, "aw", @nobits
    .balign 16
stacks:
    .space STACK_BYTES * NUM_CORES
