"""What the jobs read from the hub, and how it is fetched before they run."""
