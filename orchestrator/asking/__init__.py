"""Sends one request to a model and reads what comes back."""
