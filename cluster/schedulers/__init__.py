"""The batch systems: scripts, submission, job and node states. No other room knows their commands."""
