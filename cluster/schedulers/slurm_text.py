"""What Slurm's commands print, read. A site's wrapper or a login shell puts banners, colours and numbers around it.

Every function takes any text and raises nothing: what is not certain is None, or left out.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

JOB_ID = re.compile(r"[1-9][0-9]{0,9}")  # a federation's have up to ten digits
# Colours and cursor movements (CSI), titles and links (OSC), the two-character ones, and what has no width.
ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\-~])"
    r"|[\x00-\x08\x0e-\x1b\x7f\u200b-\u200f\u2060\ufeff]"
)
SUBMITTED = re.compile(r"\bsubmitted batch job ([1-9][0-9]{0,9})\b", re.IGNORECASE)  # sbatch without --parsable
ON_CLUSTER = re.compile(r"\s*([1-9][0-9]{0,9});[\w.-]*\s*")  # a whole line of --parsable, with the cluster's name
ALONE = re.compile(r"\s*([1-9][0-9]{0,9})\s*")  # a whole line of --parsable
TAKEN = r"\b(?:submitted|queued|enqueued|accepted|launched|started|running)\b"
# A job's number follows the word itself: in `your job uses 16 GPUs`, `job 1 of 3` and `job: 2 nodes` it is another one.
COUNTED = r"(?![.:/%-]?\d|\s*%|\s*(?:of|nodes?|[cg]pus?|cores?|tasks?|hours?|h|min(?:utes)?|[GT]i?B|SUs?)\b)"
NUMBERED = (
    rf"\bjob\b(?:[ \t]+(?:with[ \t]+)?(?:id|number|no\.|nr\.))?[ \t:#=<(\"'\[]{{1,4}}([1-9][0-9]{{0,9}})\b{COUNTED}"
)
SPOKEN = re.compile(  # a wrapper's own words
    rf"{TAKEN}[^\n]{{0,40}}?{NUMBERED}"
    rf"|{NUMBERED}(?=[^\n]{{0,40}}{TAKEN})"
    r"|\bjob[ _-]?id(?:\s+is)?[^\w\n]{1,4}([1-9][0-9]{0,9})\b",
    re.IGNORECASE | re.MULTILINE,
)
# What a command says that did not reach the controller, or was sent away by it: of slurm_errno.c, the C library, and
# of clients that have their configuration from the controller too. Nothing of it is the profile's fault.
AWAY = re.compile(
    r"unable to contact|did not answer|timed out|zero bytes were transmitted|connect(?:ion)? (?:failure|refused|reset)"
    r"|(?:send|receive|shutdown) failure|standby mode|no route to host|network is unreachable|host is down|broken pipe"
    r"|not connected|temporar(?:y|ily) (?:failure|un)|rate limit exceeded|configuration source|fetch config"
    r"|protocol authentication error|munge|unexpected message received|insane message length"
    r"|connection rejected|shutting down",
    re.IGNORECASE,
)
HOST_LIST = re.compile(r"(?:[^\[\]]|\[[^\[\]]*\])+")  # every bracket is closed
PLAIN_HOSTS = re.compile(r"[\w.-]+(?:,[\w.-]+)*", re.ASCII)
NODE_STATE = re.compile(r"[a-z_]+[^\w\s]{0,2}", re.ASCII)  # sinfo's short word, with signs: * does not answer, ~ sleeps


@dataclass(frozen=True, slots=True)
class Queued:
    """A line of the queue: a job, and the command that it runs."""

    id: str
    state: str
    comment: str
    command: str


def plain(text: str) -> str:
    """The text without what only a terminal understands."""
    return ESCAPES.sub("", text)


def submitted_id(out: str, err: str = "") -> str | None:
    """The id of the job in what sbatch printed, None where it is not certain.

    Its own forms count more than a wrapper's words, a line that is nothing but a number more than one inside a
    sentence, standard output more than standard error. Where several numbers could be it, none is taken.
    """
    ways: list[Collection[str]] = [
        _found(SUBMITTED, out, err),
        _lines(ON_CLUSTER, out),
        _lines(ALONE, out),
        _lines(ON_CLUSTER, err),
        _lines(ALONE, err),
        _found(SPOKEN, out, err),
    ]
    ids = next((ids for ids in ways if ids), ())
    return next(iter(ids)) if len(ids) == 1 else None


def _found(pattern: "re.Pattern[str]", *texts: str) -> set[str]:
    return {next(filter(None, match.groups())) for text in texts for match in pattern.finditer(plain(text))}


def _lines(pattern: "re.Pattern[str]", text: str) -> set[str]:
    return {match[1] for line in plain(text).splitlines() if (match := pattern.fullmatch(line))}


def is_away(said: str) -> bool:
    """Whether a command failed because the controller is away, or too busy: ask again."""
    return bool(AWAY.search(said))


def is_unknown_job(said: str) -> bool:
    """Whether the controller answered that it has no such job."""
    return "invalid job id" in said.lower()


def job_fields(text: str, job_id: str) -> dict[str, str] | None:
    """The fields of one job in what `scontrol show job` printed; None where it is not in there.

    Of a key that comes twice the first counts: a comment, a path and whatever else a user writes come after the fields
    that Slurm fills in itself. Only the job's name is before them.
    """
    text = plain(text)
    start = re.search(rf"(?:^|\s)JobId={re.escape(job_id)}(?=\s|$)", text)
    if not start:
        return None
    end = re.compile(r"^JobId=", re.MULTILINE).search(text, start.end())
    job = re.sub(r"(?<=\s)JobName=.*?(?=\sUserId=)", "", text[start.start() : end.start() if end else None], count=1)
    fields: dict[str, str] = {}
    for key, value in re.findall(r"(?:^|(?<=\s))([A-Za-z][\w:/.-]*)=(\S*)", job):
        fields.setdefault(key, value)
    return fields


def seconds_left(fields: Mapping[str, str]) -> int | None:
    """What is left of a job's time; None where it has no limit."""
    limit, used = (seconds(fields.get(key, "")) for key in ("TimeLimit", "RunTime"))
    return None if limit is None or used is None else max(0, limit - used)


def seconds(text: str) -> int | None:
    """Slurm's days-hours:minutes:seconds as seconds; None for its words, as UNLIMITED."""
    match = re.fullmatch(r"(?:(\d{1,9})-)?(\d{1,9}):(\d{1,9}):(\d{1,9})", text)
    if not match:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def is_host_list(text: str) -> bool:
    return bool(HOST_LIST.fullmatch(text))


def plain_hosts(hostlist: str) -> list[str] | None:
    """The hosts of a list without brackets, None for any other."""
    return hostlist.split(",") if PLAIN_HOSTS.fullmatch(hostlist) else None


def hosts_of(hostlist: str, text: str) -> list[str]:
    """The hosts that `scontrol show hostnames` printed for `hostlist`, in order; nothing that cannot be one of them."""
    parts = re.findall(r"(?:[^\[\],\s]|\[[^\[\]]*\])+", hostlist)
    host = re.compile("|".join(dict.fromkeys(map(_host_pattern, parts))), re.ASCII)
    alone = (words[0] for line in plain(text).splitlines() if len(words := line.split()) == 1)
    return [name for name in alone if host.fullmatch(name)]


def _host_pattern(part: str) -> str:
    if "/" in part:  # the name of a file that lists them
        return r"[\w.-]+"
    pieces = re.split(r"(\[[^\]]*\])", part)
    return "".join("[0-9]+" if piece.startswith("[") else re.escape(piece) for piece in pieces)


def node_states(nodes: Collection[str], text: str) -> dict[str, str]:
    """sinfo's state of each of `nodes`, of lines `NAME STATE`."""
    rows = (line.split() for line in plain(text).splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2 and row[0] in nodes and NODE_STATE.fullmatch(row[1])}


def queue(text: str) -> list[Queued]:
    """The jobs in what squeue printed as `ID|STATE|COMMENT|COMMAND`, one a line."""
    rows = (line.strip().split("|", 3) for line in plain(text).splitlines())
    return [Queued(*row) for row in rows if len(row) == 4 and JOB_ID.fullmatch(row[0]) and row[1].isupper()]


def sentence(lines: Iterable[str]) -> str:
    """What a command said, without its name and the word error, as one line."""
    told = [re.sub(r"^\w+( error)?: (error: )?", "", plain(line)).strip() for line in lines if line.strip()]
    return "; ".join(line for line in told if line) or "it printed nothing"
