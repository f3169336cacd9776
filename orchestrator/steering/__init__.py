"""Follows the engines' load while requests run, and kills what hangs."""
