"""Training on the workstation: the loop and what it works with."""
