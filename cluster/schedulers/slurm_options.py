"""sbatch's options, as far as a site profile uses them: which there are, and which the batch script sets."""

import re
import shlex
from collections.abc import Iterator

# Of Slurm 22.05 to 25.11: those that take a value, those whose value may be left out, and those without one, each with
# its short form.
WITH_VALUE = """account/A acctg-freq array/a batch bb bbf begin/b chdir/D cluster-constraint clusters/M comment
constraint/C container container-id core-spec/S cores-per-socket cpu-freq cpus-per-gpu cpus-per-task/c deadline
delay-boot dependency/d distribution/m error/e exclude/x export export-file extra extra-node-info/B gid gpu-bind
gpu-freq gpus/G gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint input/i job-name/J
kill-on-invalid-dep licenses/L mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus
network nodefile/F nodelist/w nodes/N ntasks/n ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket
open-mode output/o partition/p power prefer priority profile qos/q reservation resv-ports segment signal
sockets-per-node switches thread-spec threads-per-core time/t time-min tmp tres-bind tres-per-job tres-per-task
uid wait-all-nodes wckey wrap"""
MAY_HAVE_VALUE = "exclusive export get-user-env nice no-kill/k oom-kill-step propagate requeue"
WITHOUT_VALUE = """consolidate-segments contiguous help/h hold/H ignore-pbs no-requeue overcommit/O oversubscribe/s
parsable quiet/Q reboot spread-job spread-segments stepmgr test-only usage use-min-nodes verbose/v version/V wait/W
x11"""
_ALL = [word.partition("/") for word in f"{WITH_VALUE} {MAY_HAVE_VALUE} {WITHOUT_VALUE}".split()]
OPTIONS = tuple(dict.fromkeys(name for name, _, _ in _ALL))
SHORT = {letter: name for name, _, letter in _ALL if letter}
TAKES_VALUE = {word.partition("/")[0] for word in WITH_VALUE.split()}

# What the batch script says itself, sbatch would take the later one; the profile's key for it.
KEYS = {
    "partition": "partition",
    "account": "account",
    "nodelist": "nodelist",
    "time": "time",
    "cpus-per-task": "cpus_per_node",
    "gpus-per-node": "gpus_per_node",
    "gpus-per-task": "gpus_per_node",
    "gpus-per-socket": "gpus_per_node",
    "gpus": "gpus_per_node",
    "mem": "memory",
    "exclusive": "exclusive",
    "signal": "grace",
    "export": "env",
    "export-file": "env",
    "requeue": "resubmit",
}
# The same without a key, and what to do instead.
OWN = {
    "nodes": "use --nodes or NODES=",
    "ntasks": "each node gets one task",
    "ntasks-per-node": "each node gets one task",
    "ntasks-per-core": "each node gets one task",
    "ntasks-per-gpu": "each node gets one task",
    "ntasks-per-socket": "each node gets one task",
    "job-name": "use --name or NAME=",
    "output": "the log lies in ~/.kosen/clusters/<name>/logs",
    "error": "the log lies in ~/.kosen/clusters/<name>/logs",
    "array": "a cluster is one job; use NODES=, or several names",
    "no-kill": "a lost node must not end the job",
    "clusters": "one controller is asked; log in to that cluster",
    "wrap": "the batch script is Kosen's",
    "wait": "cluster up waits by itself",
    "parsable": "Kosen reads sbatch's answer",
    "test-only": "use --dry-run",
    "help": "nothing would be submitted",
    "usage": "nothing would be submitted",
    "version": "nothing would be submitted",
}
SAME = ("--no-kill", "-k", "--ntasks-per-node=1", "--parsable")  # what is said anyway
TYPED = re.compile(r"(?:gpu:)?([A-Za-z][\w.-]*):(\d+)", re.ASCII)  # a number of GPUs with their type

GPUS = re.compile(r"(?:gres[/:])?gpu(?:[:/][A-Za-z][\w.-]*)?(?:[:=](\d+))?", re.ASCII)  # of a list of resources


def check(lines: list[str], *, exclusive: bool, gpus: int, grace: int) -> None:
    """Raise ValueError for a line that is not an option of sbatch, or that would take back what the profile says."""
    for line in lines:
        if not line.strip().startswith("-") or not line.isprintable():
            raise ValueError(f"{line!r} is not an option of sbatch. Expected one per line, for example --qos=long")
        for name, value in parse(line):
            _check_one(line, name, value, exclusive=exclusive, gpus=gpus, grace=grace)


def _check_one(line: str, name: str, value: str | None, *, exclusive: bool, gpus: int, grace: int) -> None:
    asked = _gpus_a_node(name, value or "")
    if asked is not None:
        if asked == gpus:
            return  # the same number, and of which type
        raise ValueError(f"{line} and gpus_per_node={gpus} differ. Give the same number with both")
    if name not in {*OWN, *KEYS} or line.strip() in SAME:
        return
    if name == "signal" and value in (f"B:USR2@{grace}", f"B:TERM@{grace}"):
        return  # at the same time, and the batch script takes both
    if name == "exclusive" and value and not exclusive:
        return  # =user and =mcs, which have no key
    instead = f"use the key {KEYS[name]}" if name in KEYS else OWN[name]
    raise ValueError(f"{line} would override what the batch script says itself: {instead}")


def _gpus_a_node(name: str, value: str) -> int | None:
    """The GPUs that an option asks of each node, on which there is one task; None where it asks for none, or where
    nothing but a number stands in the place of our own key."""
    if name in ("gpus-per-node", "gpus-per-task"):
        counts = [TYPED.fullmatch(part) for part in value.split(",")]
        return sum(int(count[2]) for count in counts if count) if all(counts) else None
    if name not in ("gres", "tres-per-task"):
        return None
    counts = [GPUS.fullmatch(part) for part in value.split(",")]
    return sum(int(count[1] or 1) for count in counts if count) if any(counts) else None


def parse(line: str) -> Iterator[tuple[str, str | None]]:
    """The options of a line by their full names, as getopt reads them: abbreviated, bundled, the value in the next
    word. An option that is not known here has the name that it is given. Raises ValueError for an open quote."""
    try:
        words = iter(shlex.split(line, comments=True))
    except ValueError as error:
        raise ValueError(f"{line} is not an option of sbatch: {str(error).lower()}") from None
    for word in words:
        if word.startswith("--"):
            given, equals, value = word[2:].partition("=")
            name = _full_name(given)
            yield name, value if equals else next(words, None) if name in TAKES_VALUE else None
        elif word.startswith("-"):
            yield from _short(word[1:], words)


def _full_name(given: str) -> str:
    """What getopt takes for the only option that begins so."""
    if given in OPTIONS:
        return given
    starting = [option for option in OPTIONS if given and option.startswith(given)]
    return starting[0] if len(starting) == 1 else given


def _short(letters: str, words: Iterator[str]) -> Iterator[tuple[str, str | None]]:
    while letters:
        name, letters = SHORT.get(letters[0], letters[0]), letters[1:]
        if name in TAKES_VALUE:
            yield name, letters.removeprefix("=") or next(words, None)
            return
        yield name, None


def advice(key: str, value: object) -> str | None:
    """What to write instead of a profile's unknown key that is an option of sbatch; None where it is not one."""
    option = SHORT.get(key) or key.lstrip("-").replace("_", "-").lower()
    if option not in OPTIONS:
        return None
    counts_gpus = option in ("gpus", "gpus-per-node") or (option == "gres" and str(value).startswith("gpu:"))
    if counts_gpus and (instead := gpu_advice(str(value))):
        return instead
    if option in KEYS:
        return f"Did you mean {KEYS[option]}?"
    if option in OWN:
        return f"sbatch's --{option} is not for a profile: {OWN[option]}"
    return _as_option(option, value)


def gpu_advice(value: str) -> str | None:
    """How a number of GPUs is said, with or without their type; None for what is not a number of GPUs."""
    if typed := TYPED.fullmatch(value):
        return f"Write `gpus_per_node: {typed[2]}` and, for the type, `sbatch: [--gpus-per-node={typed[1]}:{typed[2]}]`"
    if number := re.fullmatch(r"(?:gpu:)?(\d+)", value, re.ASCII):
        return f"Did you mean gpus_per_node? Write `gpus_per_node: {number[1]}`"
    return None


def _as_option(option: str, value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    flag = value is None or (option not in TAKES_VALUE and text.lower() in ("", "true", "yes", "on"))
    written = f"--{option}" if flag else f"--{option}={shlex.quote(text)}"
    plain = re.fullmatch(r"[\w=.:/@+-]+", written, re.ASCII)
    return f"It is an option of sbatch: write `sbatch: [{written if plain else repr(written)}]`"
