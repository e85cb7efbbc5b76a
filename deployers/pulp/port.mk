# pulp-open in GVSoC: clang-19 puts floats in integer registers (Zfinx), which Debian's GCC cannot; libraries are Debian's.

CC := clang-19
GVSOC ?= $(firstword $(wildcard $(GVSOC_HOME)/bin/gvsoc $(GVSOC_HOME)/install/bin/gvsoc) gvsoc)
PICOLIBC ?= /usr/lib/picolibc/riscv64-unknown-elf
LIBGCC := $(shell riscv64-unknown-elf-gcc -march=rv32im -mabi=ilp32 -print-libgcc-file-name)
L1_BEHIND := 4096 # bytes of L1 that can be read behind the memory of tiles; link.ld checks it
INNER := xpulp xpulp_insn
CHECKS ?=
TARGET_CFLAGS := --target=riscv32-unknown-elf -march=rv32imc_zicsr_zfinx -mabi=ilp32 -DPORT_L1_BEHIND=$(L1_BEHIND) \
	-ffunction-sections -isystem $(PICOLIBC)/include
AR := riscv64-unknown-elf-ar
LINK = riscv64-unknown-elf-ld -m elf32lriscv --gc-sections --no-warn-rwx-segments \
	--defsym=port_l1_behind=$(L1_BEHIND) -T port/link.ld
LIBS = -L$(PICOLIBC)/lib/rv32im/ilp32 -lm -lc $(LIBGCC)
RUN = cd $(BUILD) && $(GVSOC) --target=pulp-open --binary $(abspath $(ELF)) --work-dir . image flash run
