"""What Slurm's words for a job or a node mean for whoever waits: it runs, passes, ends, or needs a person."""

import re
from collections.abc import Mapping, Sequence

from cluster.schedulers import slurm_text
from cluster.schedulers.base import Job, Stage

# Documented in "Job State Codes" of Slurm 22.05 to 25.11; a word that is not here waits, and every wait has an end.
ENDED = {
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "BOOT_FAIL",
    "DEADLINE",
    "OUT_OF_MEMORY",
    "REVOKED",  # another cluster of the federation has it
}
RUNNING = {"RUNNING", "RESIZING", "SIGNALING"}
ENDING = {"COMPLETING", "STAGE_OUT", "UPDATE_DB"}  # its processes are gone, or are being killed
STOPPED = {"SUSPENDED", "STOPPED"}  # another user or the scheduler resumes it
LOST = {"NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "TIMEOUT"}  # nothing in the job itself was wrong
USUAL = {"PENDING", "RUNNING"}
HELD = {"REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "LAUNCH_FAILED", "RECONFIG_FAIL"}

# Reasons to wait that only another request ends: sbatch takes such a job unless the site enforces its limits. Those of
# a user, an account or a group (…PerUser, …PerAccount, …Grp…) are not among them, because others' jobs end.
IMPOSSIBLE = re.compile(
    r"(?:Assoc|QOS)?Max\w*Per(?:Job|Node)(?:Limit)?|MaxMemPerLimit|QOSMin\w+"
    r"|Partition(?:Node|Time)Limit|PartitionConfig|BadConstraints|Invalid\w+|\w+NotAllowed"
    r"|Reservation(?:Deleted|Invalid)|DependencyNeverSatisfied",
    re.IGNORECASE,
)
# Reasons that a person removes, with `scontrol release`. Some are given in words, as launch_failed_requeued_held.
HOLD = re.compile(r"JobHeld\w*|JobHold\w*|(?:.*[ _])?held(?:[ _].*)?|BurstBufferOperation", re.IGNORECASE)


def never_starts(reason: str) -> bool:
    """Whether no job that asks for this will ever start; what follows the reason's own word does not count."""
    return bool(IMPOSSIBLE.fullmatch(re.split(r"[,(\s]", reason, maxsplit=1)[0]))


def is_held(state: str, reason: str) -> bool:
    """Whether the job starts only when a person releases it."""
    return state in HELD or bool(HOLD.fullmatch(reason))


def job(
    job_id: str, state: str, reason: str, nodes: Sequence[str] = (), fields: Mapping[str, str] | None = None
) -> Job:
    """The job with this state and reason; its time limit is in the `fields` of `scontrol show job`."""
    return Job(
        id=job_id,
        state=state,
        reason=reason,
        nodes=nodes,
        seconds_left=slurm_text.seconds_left(fields) if fields and state in RUNNING else None,
        stage=_stage(state, reason),
        usual=state in USUAL,
        lost=state in LOST,
        over_time=reason == "TimeLimit",
    )


def _stage(state: str, reason: str) -> Stage:
    if state in ENDED:
        return "ended"
    if state in ENDING:
        return "ending"
    if state in RUNNING:
        return "running"
    if never_starts(reason):
        return "impossible"
    return "held" if is_held(state, reason) else "waits"


USABLE = ("alloc", "mix", "comp", "idle", "drng")  # sinfo's short words for a node that answers
UNUSABLE = frozenset("*~#%^")  # its signs for one that does not answer, sleeps, wakes up, goes to sleep, or reboots


def is_usable(word: str) -> bool:
    """Whether a step can start on a node of which sinfo says `word`."""
    return word.startswith(USABLE) and not UNUSABLE & set(word)
