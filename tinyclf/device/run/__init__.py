"""The flow from a job to a verdict: plan, emit, build, run, compare."""
