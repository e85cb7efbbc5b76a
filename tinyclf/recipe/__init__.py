"""What is trained, and how the device updates it: plain values that need no torch."""
