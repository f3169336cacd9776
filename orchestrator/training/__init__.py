"""Adapts verl: specs become its configuration, its trainers run under a supervisor, checkpoints are kept good."""
