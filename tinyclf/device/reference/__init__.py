"""The same training in PyTorch."""
