"""What `make demo` and `make demo-rl` are made of: an exam, a model, sums, an optimizer."""
