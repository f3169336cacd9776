"""Tests. A package, because some that we install bring a `tests` of their own."""
