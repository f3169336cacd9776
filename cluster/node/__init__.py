"""Runs on every node of a cluster: starts Ray, keeps it running, and removes it at the end."""
