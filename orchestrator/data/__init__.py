"""Reads rows of questions and conversations."""
