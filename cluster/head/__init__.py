"""Runs in the batch job, on its first node: starts the cluster, monitors it, restarts workers, resubmits."""
