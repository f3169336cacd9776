"""Runs inside the trainer's process, with verl and torch."""
