"""The batch systems: scripts, submission, job and node states. No other folder knows their commands."""
