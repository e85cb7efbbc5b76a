# Builds an emitted project: `make` builds, `make run` runs it in build/, where it leaves results.bin.
# NUM_CORES: how many cores share the work. OPT: optimisation flags. PREPARE: what a run needs done before.
# PROFILE=1: also report the cycles of each operation; PROFILE=2: and how long it waited for copies, which costs some.
# PREFIX=a_: external symbols of the net and its kernels begin with a_; `make lib` archives them without port and main.c,
# in build/tinyclf.a, so that several nets link into one program.
# CHECKS=1: also on a chip check the contract of every tile (which costs cycles; hosts and QEMU always do).

OPT ?= -O2
BUILD ?= build
ELF := $(BUILD)/tinyclf.elf
# Products and sums are fused within an expression at most, where the target can: the same in every makefile.
CONTRACT := -ffp-contract=on
WARNINGS := -Wall -Wextra -Werror -Wcast-qual -Wcast-align -Wconversion -Wstrict-aliasing=2 -Wpointer-arith -Wshadow -Wundef -Wwrite-strings \
	-Wstrict-prototypes -Wmissing-prototypes
NAMES = $(if $(PREFIX),-DTCL_PREFIX=$(PREFIX) -include src/tcl_names.h)
CFLAGS = -std=c99 $(WARNINGS) $(CONTRACT) $(OPT) $(addprefix -DTCL_PROFILE=,$(PROFILE)) $(if $(CHECKS),,-DTCL_UNCHECKED) \
	-DNUM_CORES=$(NUM_CORES) -Isrc -Itrainlib/include $(addprefix -Itrainlib/src/fast/,$(INNER)) -Iport $(NAMES)

include port/port.mk

# Which folders of trainlib/src/fast the inner loops of tiles are taken from; PULP has others.
INNER ?= plain
CHECKS ?= 1

SOURCES := $(sort $(wildcard src/*.c trainlib/src/*.c trainlib/src/*/*.c port/*.c port/*.S src/*.S))
OBJECTS := $(patsubst %,$(BUILD)/%.o,$(SOURCES))

all: $(ELF)

$(ELF): $(OBJECTS) $(wildcard port/link.ld)
	$(LINK) -o $@ $(OBJECTS) $(LIBS)

lib: $(BUILD)/tinyclf.a

$(BUILD)/tinyclf.a: $(filter-out $(BUILD)/port/% $(BUILD)/src/main.c.o,$(OBJECTS))
	rm -f $@
	$(AR) rcs $@ $^

# A change of flags (another NUM_CORES, say) rebuilds.
FLAGS := $(CC) $(CFLAGS) $(TARGET_CFLAGS)
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(FLAGS)' | cmp -s - $@ || echo '$(FLAGS)' > $@

$(BUILD)/%.c.o: %.c $(BUILD)/flags $(wildcard src/*.h trainlib/*/*.h trainlib/*/*/*.h trainlib/*/*/*/*.h port/*.h)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(TARGET_CFLAGS) -c -o $@ $<

$(BUILD)/%.S.o: %.S $(BUILD)/flags $(wildcard data/*.bin)
	@mkdir -p $(@D)
	$(CC) $(TARGET_CFLAGS) -DNUM_CORES=$(NUM_CORES) $(NAMES) -c -o $@ $<

run: $(ELF)
	rm -f $(BUILD)/results.bin
	$(PREPARE)
	$(RUN)

clean:
	rm -rf $(BUILD)

FORCE:
.PHONY: all lib run clean FORCE
