"""What a job's state, and the reason for it, mean for somebody who waits: it runs, passes, ends, or needs a person."""

import re

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
ENDING = {"COMPLETING", "STAGE_OUT", "UPDATE_DB"}  # its processes are gone, or are being ended
STOPPED = {"SUSPENDED", "STOPPED"}  # somebody else decides when it goes on
HELD = {"REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "LAUNCH_FAILED", "RECONFIG_FAIL"}

# Reasons to wait that only another request ends: sbatch takes such a job unless the site enforces its limits. Those of
# a user, an account or a group (…PerUser, …PerAccount, …Grp…) are not among them, because others' jobs end.
IMPOSSIBLE = re.compile(
    r"(?:Assoc|QOS)?Max\w*Per(?:Job|Node)(?:Limit)?|MaxMemPerLimit|QOSMin\w+"
    r"|Partition(?:Node|Time)Limit|PartitionConfig|BadConstraints|Invalid\w+|\w+NotAllowed"
    r"|Reservation(?:Deleted|Invalid)|DependencyNeverSatisfied",
    re.IGNORECASE,
)
# Reasons that a person ends, with `scontrol release`. Some are told in words, as launch_failed_requeued_held.
HOLD = re.compile(r"JobHeld\w*|JobHold\w*|(?:.*[ _])?held(?:[ _].*)?|BurstBufferOperation", re.IGNORECASE)


def never_starts(reason: str) -> bool:
    """Whether no job that asks for this will ever start; what follows the reason's own word does not count."""
    return bool(IMPOSSIBLE.fullmatch(re.split(r"[,(\s]", reason, maxsplit=1)[0]))


def is_held(state: str, reason: str) -> bool:
    """Whether the job starts only when somebody lets it."""
    return state in HELD or bool(HOLD.fullmatch(reason))
