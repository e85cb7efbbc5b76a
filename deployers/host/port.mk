# The host: threads for cores. SANITIZE=address,undefined or SANITIZE=thread adds the compiler's sanitizers.

SANITIZE ?=
CC ?= cc
SANITIZE_FLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all -g)
TARGET_CFLAGS := -pthread $(SANITIZE_FLAGS)
LINK = $(CC) $(TARGET_CFLAGS)
LIBS := -lm
RUN = cd $(BUILD) && ./tinyclf.elf
