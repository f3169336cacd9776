"""Pipelines of jobs: their steps, and what is still to run."""
