"""Checks nodes and links before Ray starts."""
