/* Xpulpv2 instructions in inline assembly.

   With TCL_XPULP the fast kernels run their inner loops in these; floats must live in integer registers
   (Zfinx). Without it the same walks are plain C. They are spelled as encodings, for compilers that do not
   know them; with TCL_XPULP_MNEMONICS by name, for the PULP GCC, whose assembler has no .insn (its
   -march=rv32imcxgap9 keeps floats in integer registers too). All sizes are 4 bytes: use them between
   XPULP_BEGIN and XPULP_END.

   P_LW and P_LWR: rd = *address, then address += step, a constant or a register, in bytes. P_SW: *address =
   rs, then address += step, a constant. LP_SETUP: the next `num` instructions (a literal) run `count` (a
   register, at least 1) times, without branches. P_MAX, P_MIN: signed integer maximum and minimum. */
#ifndef TCL_XPULP_H
#define TCL_XPULP_H

#ifdef TCL_XPULP

#if !defined(__riscv_zfinx) && !defined(TCL_XPULP_MNEMONICS)
#error "TCL_XPULP: floats must live in integer registers (-march=..._zfinx)"
#endif

#define XPULP_BEGIN ".option push\n.balign 4\n.option norvc\n"
#define XPULP_END ".option pop\n"

#ifdef TCL_XPULP_MNEMONICS
#define P_LW(rd, address, step) "p.lw " rd ", " step "(" address "!)\n"
#define P_LWR(rd, address, step) "p.lw " rd ", " step "(" address "!)\n"
#define P_SW(rs, address, step) "p.sw " rs ", " step "(" address "!)\n"
#define LP_SETUP(count, num) "lp.setup x0, " count ", 4 * " num "\n"
#define P_MAX(rd, a, b) "p.max " rd ", " a ", " b "\n"
#define P_MIN(rd, a, b) "p.min " rd ", " a ", " b "\n"
#else
#define P_LW(rd, address, step) ".insn i 0x0b, 2, " rd ", " address ", " step "\n"
#define P_LWR(rd, address, step) ".insn r 0x0b, 7, 0x10, " rd ", " address ", " step "\n"
#define P_SW(rs, address, step) ".insn s 0x2b, 2, " rs ", " step "(" address ")\n"
#define LP_SETUP(count, num) ".insn i 0x7b, 4, x0, " count ", 2 * " num "\n"
#define P_MAX(rd, a, b) ".insn r 0x33, 6, 0x02, " rd ", " a ", " b "\n"
#define P_MIN(rd, a, b) ".insn r 0x33, 4, 0x02, " rd ", " a ", " b "\n"

/* Assembly may have more operands than the 30 that GCC takes. */
#define TCL_XPULP_WIDE
#endif

#define FMADD(rd, a, b, c) "fmadd.s " rd ", " a ", " b ", " c "\n"
#define FMUL(rd, a, b) "fmul.s " rd ", " a ", " b "\n"

#endif

#endif
