"""Training: truth into targets, losses, optimisers, schedules. Needs torch; only the command line imports it."""
