"""The parts of `jobs.bench`: each measures one thing of a cluster and writes one JSON file; the report reads them."""
