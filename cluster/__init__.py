"""From a machine or a scheduler's allocation to a healthy, authenticated Ray cluster, and back to nothing."""
