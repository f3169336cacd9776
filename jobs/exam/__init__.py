"""One exam, from its spec to its figures."""
