"""Deploys a model on vLLM by Ray Serve, waits until it answers, and says who answers."""
