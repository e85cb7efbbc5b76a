/* Xpulpv2 instructions as encodings. */
#ifndef XPULP_SPELLING_H
#define XPULP_SPELLING_H

#ifndef __riscv_zfinx
#error "floats must live in integer registers (-march=..._zfinx)"
#endif

#define P_LW(rd, address, step) ".insn i 0x0b, 2, " rd ", " address ", " step "\n"
#define P_LWR(rd, address, step) ".insn r 0x0b, 7, 0x10, " rd ", " address ", " step "\n"
#define P_SW(rs, address, step) ".insn s 0x2b, 2, " rs ", " step "(" address ")\n"
#define LP_SETUP(count, num) ".insn i 0x7b, 4, x0, " count ", 2 * " num "\n"
#define P_MAX(rd, a, b) ".insn r 0x33, 6, 0x02, " rd ", " a ", " b "\n"
#define P_MIN(rd, a, b) ".insn r 0x33, 4, 0x02, " rd ", " a ", " b "\n"

#endif
