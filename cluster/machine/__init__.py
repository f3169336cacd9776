"""What one machine has and does: network, ports, processes, temporary folders, logs, Ray's command line."""
