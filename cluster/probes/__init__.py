"""What measures a node or a link. No policy: thresholds and advice are preflight's, or a benchmark's."""
