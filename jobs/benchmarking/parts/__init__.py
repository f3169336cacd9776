"""The parts of the benchmark that measure, and what they share."""
