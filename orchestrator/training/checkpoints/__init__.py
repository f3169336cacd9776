"""Checkpoints and model folders: which to keep, and how one becomes a model."""
