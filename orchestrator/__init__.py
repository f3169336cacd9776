"""What every Kosen job needs on a Ray cluster: specs, endpoints, batching, records, submission, tracking."""
