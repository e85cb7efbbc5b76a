# QEMU's riscv32 virt machine, bare metal.

CC := riscv64-unknown-elf-gcc
QEMU ?= qemu-system-riscv32
TARGET_CFLAGS := --specs=picolibc.specs -march=rv32imafc -mabi=ilp32f -ffunction-sections
AR := riscv64-unknown-elf-ar
LINK = $(CC) $(TARGET_CFLAGS) -nostartfiles -Wl,--gc-sections,--no-warn-rwx-segments -T port/link.ld
LIBS := -lm
RUN = cd $(BUILD) && $(QEMU) -machine virt -smp $(NUM_CORES) -m 128M -bios none -display none -serial none \
	-monitor none -semihosting -kernel tinyclf.elf
