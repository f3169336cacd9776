"""Follows the engines' load while requests run, and ends what hangs."""
