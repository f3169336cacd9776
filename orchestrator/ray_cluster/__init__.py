"""The Ray cluster that a job uses: finds it, connects to it, submits jobs, watches it."""
