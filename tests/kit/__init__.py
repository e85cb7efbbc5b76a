"""What tests share: paths, targets, nets, jobs, sources and commands."""
