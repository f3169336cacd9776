"""The name of `cluster.head.batch` in scripts that were submitted before it moved; to be removed after one release."""
