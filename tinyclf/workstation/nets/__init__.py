"""Nets: architectures, starting weights, freezing, folding."""
