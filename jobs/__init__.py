"""Doors: each module named here is a job, run by `python -m jobs.NAME` or `ray job submit`. Folders hold the rest."""

DOORS = (
    *("bench", "demo", "evaluate", "judge", "merge", "pipeline", "ppo", "predict", "prefetch", "prepare"),
    *("score", "sft", "upload"),
)
