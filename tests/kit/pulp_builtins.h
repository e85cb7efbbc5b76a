/* Stands in for the PULP compiler where clang checks code against the PULP SDK's headers: what they use of
 * it. */
#ifndef __ASSEMBLER__
#define float16alt short
int __builtin_pulp_OffsetedRead(int *base, int offset);
void __builtin_pulp_OffsetedWrite(int value, int *base, int offset);
int __builtin_pulp_binsert(int value, int mask, int bits, int size, int offset);
int __builtin_pulp_bextract(int value, int size, int offset);
unsigned __builtin_pulp_bextractu(unsigned value, int size, int offset);
void __builtin_pulp_spr_write(int reg, int value);
int __builtin_pulp_spr_read(int reg);
int __builtin_pulp_fl1(int value);
int __builtin_pulp_ClusterId(void);
#endif
