/* Xpulpv2 instructions in inline assembly; floats must live in integer registers (Zfinx).

   Two folders spell them: as encodings, for compilers that do not know them, or by name, for the PULP GCC,
   whose assembler has no .insn (its -march=rv32imcxgap9 keeps floats in integer registers too). All sizes are
   4 bytes: use them between XPULP_BEGIN and XPULP_END.

   P_LW and P_LWR: rd = *address, then address += step, a constant or a register, in bytes. P_SW: *address =
   rs, then address += step, a constant. LP_SETUP: the next `num` instructions (a literal) run `count` (a
   register, at least 1) times, without branches. P_MAX, P_MIN: signed integer maximum and minimum. */
#ifndef XPULP_H
#define XPULP_H

#include "xpulp_spelling.h"

#define XPULP_BEGIN ".option push\n.balign 4\n.option norvc\n"
#define XPULP_END ".option pop\n"

#define FMADD(rd, a, b, c) "fmadd.s " rd ", " a ", " b ", " c "\n"
#define FMUL(rd, a, b) "fmul.s " rd ", " a ", " b "\n"

#endif
