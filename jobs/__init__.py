"""One module per thing that `ray job submit` runs."""
