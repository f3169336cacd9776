"""What Slurm adds to the rules of a site profile."""

from cluster.profile import Site
from cluster.schedulers import slurm_options


def check(site: Site) -> None:
    """Raise ValueError for a profile whose options of sbatch, or whose time, mean something else to Slurm."""
    # sbatch takes the last of two, and the state file would describe another cluster than there is.
    slurm_options.check(site.sbatch, exclusive=site.exclusive, gpus=site.gpus_per_node, grace=site.grace)
    limit = seconds(site.time) if site.time else 0
    if limit and site.grace >= limit:  # to Slurm no minutes mean no limit
        raise ValueError(
            f"grace={site.grace} seconds leave nothing of time={site.time}, which are {limit}: Slurm would signal "
            "the jobs to stop as soon as they start. Give more time, or less grace"
        )


def advice(key: str, value: object) -> str | None:
    """What to write in the place of an option of sbatch, or of a number of GPUs with their type."""
    return slurm_options.gpu_advice(str(value)) if key == "gpus_per_node" else slurm_options.advice(key, value)


def seconds(time: str) -> int:
    """sbatch's forms of a time limit, in seconds; Slurm counts begun minutes as whole ones."""
    days, dash, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash or len(parts) == 3:  # days-hours[:minutes[:seconds]] and hours:minutes:seconds
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:  # minutes[:seconds]
        hours, minutes, seconds = 0, *[*parts, 0][:2]
    return (int(days or 0) * 24 + hours) * 3600 + minutes * 60 + -(-seconds // 60) * 60
