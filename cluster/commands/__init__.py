"""Runs on the login node: what `python -m cluster` does, and what it shows."""
