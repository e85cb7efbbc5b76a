/* Xpulpv2 instructions in inline assembly, spelled as encodings for compilers that do not know them.

   With TCL_XPULP the fast kernels run their inner loops in these; floats must live in integer registers
   (Zfinx). Without it the same walks are plain C. All sizes are 4 bytes: use them between XPULP_BEGIN and
   XPULP_END. */
#ifndef TCL_XPULP_H
#define TCL_XPULP_H

#ifdef TCL_XPULP

#ifndef __riscv_zfinx
#error "TCL_XPULP: floats must live in integer registers (-march=..._zfinx)"
#endif

#define XPULP_BEGIN ".option push\n.balign 4\n.option norvc\n"
#define XPULP_END ".option pop\n"

/* rd = *address, then address += step: a constant, or a register, in bytes. */
#define P_LW(rd, address, step) ".insn i 0x0b, 2, " rd ", " address ", " step "\n"
#define P_LWR(rd, address, step) ".insn r 0x0b, 7, 0x10, " rd ", " address ", " step "\n"

/* *address = rs, then address += step, a constant in bytes. */
#define P_SW(rs, address, step) ".insn s 0x2b, 2, " rs ", " step "(" address ")\n"

/* The next `num` instructions (a literal) run `count` (a register, at least 1) times, without branches. */
#define LP_SETUP(count, num) ".insn i 0x7b, 4, x0, " count ", 2 * " num "\n"

#define FMADD(rd, a, b, c) "fmadd.s " rd ", " a ", " b ", " c "\n"
#define FMUL(rd, a, b) "fmul.s " rd ", " a ", " b "\n"

/* Signed integer maximum and minimum. */
#define P_MAX(rd, a, b) ".insn r 0x33, 6, 0x02, " rd ", " a ", " b "\n"
#define P_MIN(rd, a, b) ".insn r 0x33, 4, 0x02, " rd ", " a ", " b "\n"

#endif

#endif
