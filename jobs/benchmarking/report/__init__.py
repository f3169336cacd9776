"""From a results folder to the benchmark's report."""
