"""Checkpoints and model folders: which to keep, and how to make a model of one."""
