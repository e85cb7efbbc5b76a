"""A training step as plain values: Tensor, Node, Call, Graph; no torch."""
