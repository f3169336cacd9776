"""Asks rows in batches on Ray Data actors."""
