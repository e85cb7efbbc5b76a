"""What tests share: paths, targets, nets, sources and commands."""
