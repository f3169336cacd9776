"""Starts a trainer, watches it, and starts it again from its last checkpoint."""
