"""Throw broken output of Slurm's commands at its readers: python benchmarks/fuzz_slurm.py [INPUTS] [SEED].

Inputs are seeds that are cut, doubled, joined and sprinkled with bytes. Whatever a reader makes of one, it raises
nothing, and what it takes for a job's id is a number that stands in the text. Prints inputs, seconds, and how often an
id, a job's fields and hosts were found.
"""

import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.schedulers import slurm_states, slurm_text

SEEDS = (
    "4711\n",
    "4711;foo\n",
    "Submitted batch job 4711 on cluster foo\n",
    "*** Welcome! Quota: 500 GB ***\n\x1b[32m4711\x1b[0m\nhotline 24/7\n",
    "Your job 4711 has been submitted\nJob id: 4711\n",
    "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n",
    "JobId=7 JobName=kosen-c UserId=me(1000) GroupId=me(1000) JobState=RUNNING Reason=None Dependency=(null) "
    "RunTime=1-02:03:04 TimeLimit=6-00:00:00 NodeList=n[1-2] Command=/a b NodeList=n9/batch.sh WorkDir=/a b=c \n",
    "JobId=7 ArrayJobId=5 JobName=a UserId=x(1) JobState=PENDING Reason=launch_failed_requeued_held NodeList=\n",
    "slurm_load_jobs error: Invalid job id specified\n",
    "n1\nn2\nrack1node1\n",
    "n[1-2],rack[01-12]node[3,5]\n",
    "n1 idle\nn2 down*\n",
    "7|PENDING|kosen-0123456789ab|/home/me/.kosen/clusters/c/batch.sh\n",
    "AssocMaxWallDurationPerJobLimit",
    "\x1b]0;title\x07\x1b[1;31m\x1b(B",
    "\ufffd\x00\r\u2028\uff14\uff17\u0665 \u00b2",
)
SPRINKLES = ("\n", " ", "=", "|", ";", "[", "]", ",", "-", "7", "JobId=7", "job ", "\x1b[", "\x1b]", "\ud800", "\x00")


def variant(chance: random.Random) -> str:
    """A few pieces of the seeds, joined, with something in between."""
    pieces = []
    for _ in range(chance.randint(1, 4)):
        seed = chance.choice(SEEDS)
        start, end = sorted(chance.choices(range(len(seed) + 1), k=2))
        pieces.append(chance.choice((seed, seed[start:end], seed[:start] + seed[end:])))
        if chance.random() < 0.6:
            pieces.append(chance.choice(SPRINKLES) if chance.random() < 0.8 else chr(chance.randrange(0x3000)))
    return "".join(pieces)


def check(text: str) -> list[str]:
    """Read `text` in every way; what was found in it. Raises AssertionError, and whatever a reader raises."""
    found = []
    half = len(text) // 2
    if (job_id := slurm_text.submitted_id(text[:half], text[half:])) is not None:
        assert re.fullmatch("[1-9][0-9]{0,9}", job_id)
        assert job_id in slurm_text.plain(text[:half]) or job_id in slurm_text.plain(text[half:])
        found.append("id")
    fields = slurm_text.job_fields(text, "7")
    found += ["fields"] if fields else []
    slurm_text.seconds_left(fields or {"RunTime": text.strip(), "TimeLimit": text[:half]})
    slurm_states.never_starts((fields or {}).get("Reason", text))
    slurm_states.is_held((fields or {}).get("JobState", ""), (fields or {}).get("Reason", text))
    hosts = slurm_text.hosts_of(text[:half].strip() or "n[1-2]", text)
    assert not [host for host in hosts if not host or host.split() != [host]]
    found += ["hosts"] if hosts else []
    slurm_text.plain_hosts(text)
    slurm_text.is_host_list(text)
    slurm_text.node_states(["n1", "n2"], text)
    slurm_text.queue(text)
    slurm_text.is_away(text)
    slurm_text.is_unknown_job(text)
    slurm_text.sentence(text.splitlines())
    return found


def main(argv: list[str]) -> int:
    inputs, seed = ([int(word) for word in argv] + [1_000_000, 1][len(argv) :])[:2]
    chance, counts, started = random.Random(seed), Counter[str](), time.monotonic()
    for number in range(inputs):
        text = variant(chance)
        try:
            counts.update(check(text))
        except Exception:
            print(f"input {number} of seed {seed}: {text!r}", file=sys.stderr)
            raise
    print(f"{inputs} inputs in {time.monotonic() - started:.0f} s, no exception; found: {dict(counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
