"""Training a coder: loop, optimisers, schedules, checkpoints."""
