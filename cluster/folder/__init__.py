"""The files in a cluster's folder under ~/.kosen/clusters: request, ledger, events, lock."""
