"""From an nn.Module to a Graph, layer by layer."""
