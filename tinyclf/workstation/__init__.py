"""The half that trains on the workstation: nn.Module and datasets."""
