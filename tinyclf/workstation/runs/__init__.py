"""Run directories: configuration, what a run leaves behind, logs."""
