"""Entry points: each module named here is a job, run as `python -m jobs.NAME`. Folders hold the rest."""

ENTRY_POINTS = (
    *("bench", "demo", "evaluate", "judge", "merge", "pipeline", "ppo", "predict", "prefetch", "prepare"),
    *("score", "sft", "upload"),
)
