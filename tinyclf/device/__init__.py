"""The half for the chip: graphs, bytes and C."""
