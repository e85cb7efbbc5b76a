/* Xpulpv2 instructions by name. */
#ifndef XPULP_SPELLING_H
#define XPULP_SPELLING_H

#define P_LW(rd, address, step) "p.lw " rd ", " step "(" address "!)\n"
#define P_LWR(rd, address, step) "p.lw " rd ", " step "(" address "!)\n"
#define P_SW(rs, address, step) "p.sw " rs ", " step "(" address "!)\n"
#define LP_SETUP(count, num) "lp.setup x0, " count ", 4 * " num "\n"
#define P_MAX(rd, a, b) "p.max " rd ", " a ", " b "\n"
#define P_MIN(rd, a, b) "p.min " rd ", " a ", " b "\n"

#endif
