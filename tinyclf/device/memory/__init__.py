"""Where every byte of a training step lies: lifetimes, placement, recomputation, a checker."""
