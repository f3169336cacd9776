"""Every node runs an all-reduce with others, two by two, and writes the result. Needs no Ray.

python -m cluster.probes.pairwise --folder JOBDIR --host NAME --hosts a,b,c --ip IP --interface IF --port P --gpus N
--patience S --timeout S runs once on each node; the nodes find each other through small files in JOBDIR/pairwise.
Importing torch from a cold file system takes minutes, so `patience` until all hosts have connected is one limit, and
`timeout` for each measurement, from then on, another. Each runs in forked processes that are killed at its end,
so that neither a silent partner nor a hung GPU delays the others.
"""

import argparse
import dataclasses
import importlib
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from cluster.files import publish, read_published
from cluster.machine.network import Link, comm_environment
from cluster.probes.collective import Backend, Measured, Rendezvous, all_reduce, open_store

ROUNDS_MOST = 3
PATIENCE = 600.0  # seconds
TIMEOUT = 45.0  # seconds; 16 ranks of NCCL take 16 when everything is read for the first time, others 1 or 2
POLL = 0.3  # seconds between two polls for the others
FORK = multiprocessing.get_context("fork")  # torch is imported once, before the first fork


@dataclass(frozen=True, slots=True)
class PairResult:
    """The result of one measurement, as `seen_by` saw it. `hosts` is one host (alone with itself) or two.

    `latency` in seconds, `bus_bandwidth` in bytes/s by message size (see Measured); None and empty where there is a
    `problem`. `blame` is the host that this one measurement names, where it does.
    """

    round: int
    hosts: list[str]
    seen_by: str
    backend: Backend
    seconds: float
    correct: bool | None = None
    latency: float | None = None
    bus_bandwidth: dict[int, float] = field(default_factory=dict)
    problem: str | None = None
    blame: str | None = None


@dataclass(frozen=True, slots=True)
class Self:
    """This node, as its arguments describe it."""

    folder: Path
    host: str
    hosts: list[str]
    link: Link
    port: int
    gpus: int
    patience: float  # seconds until all hosts have connected
    timeout: float  # seconds for each measurement


def rounds(hosts: Sequence[str], most: int = ROUNDS_MOST) -> list[list[tuple[str, str]]]:
    """Who meets whom: rounds of disjoint pairs, by the circle method of a round-robin tournament.

    Up to four hosts are paired with every other (3 rounds for 3 or 4). More take `most` rounds: in 3 each is paired
    with two or three others, and a broken one is what its failed pairs have in common, while the time does not grow
    with the cluster.
    """
    players: list[str | None] = [*hosts, *([None] if len(hosts) % 2 else [])]
    order = {host: rank for rank, host in enumerate(hosts)}
    schedule = []
    for _ in range(min(len(players) - 1, most)):
        facing = zip(players[: len(players) // 2], reversed(players), strict=False)
        pairs = [(a, b) for a, b in facing if a is not None and b is not None]
        schedule.append([(a, b) if order[a] < order[b] else (b, a) for a, b in pairs])
        players.insert(1, players.pop())
    return schedule


def play(me: Self) -> list[PairResult]:
    """Take part in the whole tournament; this node's results, which are also in me.folder/pairwise."""
    started = time.monotonic()
    _forget_own(me)
    try:
        usable = _import_torch(me.gpus)
        store = open_store(me.link.ip, me.port, me.timeout, serve=True)  # for all rounds: partners may be ahead of us
    except (ImportError, RuntimeError, OSError) as error:
        return [_absent(me, _one_line(error))]
    publish(_host_file(me, me.host), {"ip": me.link.ip, "port": me.port, "gpus": usable})
    present = _gather(me, started + me.patience)
    begin = time.monotonic()
    results = [_alone(me, usable, begin + me.timeout)] if len(me.hosts) <= 2 else []
    results += _rounds(me, present, begin + len(results) * me.timeout)
    del store  # it lives until here
    return results


def _absent(me: Self, problem: str) -> PairResult:
    """This node cannot take part, and says so to those who would wait for it."""
    publish(_host_file(me, me.host), {"problem": problem})
    result = PairResult(0, [me.host], me.host, "gloo", 0.0, problem=problem, blame=me.host)
    _write(me, result)
    return result


def _rounds(me: Self, present: dict[str, Any], begin: float) -> list[PairResult]:
    """This host's measurement in each round. Rounds end at the same times for all: a late partner is waited for."""
    results = []
    for number, pairs in enumerate(rounds(me.hosts), 1):
        for pair in (pair for pair in pairs if me.host in pair):
            results.append(_meet(me, number, pair, present, begin + number * me.timeout))
            _write(me, results[-1])
    return results


def read_results(folder: Path) -> list[PairResult]:
    """What all nodes have written so far under the job's folder."""
    found = (read_published(path) for path in sorted(_folder(folder).glob("result.*.json")))
    return [_result(values) for values in found if values is not None]


def _result(values: dict[str, Any]) -> PairResult:
    sizes = {int(size): rate for size, rate in values["bus_bandwidth"].items()}  # JSON keys are strings
    return PairResult(**values | {"bus_bandwidth": sizes})


def _folder(job_dir: Path) -> Path:
    return job_dir / "pairwise"


def _forget_own(me: Self) -> None:
    """What an earlier try of this node left; a partner must not meet its ghost."""
    for path in [*_folder(me.folder).glob(f"result.*.{me.host}.json"), _host_file(me, me.host)]:
        path.unlink(missing_ok=True)


def _host_file(me: Self, host: str) -> Path:
    return _folder(me.folder) / f"host.{host}.json"


def _write(me: Self, result: PairResult) -> None:
    publish(_folder(me.folder) / f"result.{result.round}.{me.host}.json", dataclasses.asdict(result))


def _import_torch(gpus: int) -> int:
    """Import torch for all forks to come, and say how many GPUs it can use (fake ones have no driver)."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # a CUDA context would not survive the fork
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it warns of every address without a name
    torch = importlib.import_module("torch")
    importlib.import_module("torch.distributed")
    return min(gpus, torch.cuda.device_count()) if gpus else 0


def _gather(me: Self, deadline: float) -> dict[str, dict[str, Any]]:
    """What the hosts published that have come by the deadline."""
    present: dict[str, dict[str, Any]] = {}
    while True:
        names = set(os.listdir(_folder(me.folder)))  # noqa: PTH208 - one listing for all: the folder may be on NFS
        for host in (host for host in me.hosts if host not in present and _host_file(me, host).name in names):
            if values := read_published(_host_file(me, host)):
                present[host] = values
        if len(present) == len(me.hosts) or time.monotonic() > deadline:
            return present
        time.sleep(POLL)


def _alone(me: Self, gpus: int, deadline: float) -> PairResult:
    """The same all-reduce inside this node: with two nodes nothing else shows which of them is slow."""
    sides = [(me.host, gpus or 2)]
    result = _run(me, 0, sides, me.link.ip, me.port, "nccl" if gpus else "gloo", deadline)
    result = dataclasses.replace(result, blame=me.host if result.problem else None)
    _write(me, result)
    return result


def _meet(me: Self, number: int, pair: tuple[str, str], present: dict[str, Any], deadline: float) -> PairResult:
    for host in pair:
        problem = present.get(host, {"problem": f"{host} did not connect within {me.patience:.0f} s"}).get("problem")
        if problem:
            return PairResult(number, list(pair), me.host, "gloo", 0.0, problem=problem, blame=host)
    gpus = [int(present[host]["gpus"]) for host in pair]
    backend: Backend = "nccl" if all(gpus) else "gloo"
    sides = [(host, count if backend == "nccl" else 1) for host, count in zip(pair, gpus, strict=True)]
    where = present[pair[0]]
    return _run(me, number, sides, where["ip"], int(where["port"]), backend, deadline)


def _run(
    me: Self, number: int, sides: Sequence[tuple[str, int]], ip: str, port: int, backend: Backend, deadline: float
) -> PairResult:
    """Run this host's ranks of the measurement and wait for them until `deadline`."""
    started = time.monotonic()
    first = sum(count for _, count in sides[: [host for host, _ in sides].index(me.host)])
    world_size, own = sum(count for _, count in sides), dict(sides)[me.host]
    topic = f"{number}.{'.'.join(host for host, _ in sides)}"
    timeout = max(deadline - started - 0.5, 0.5)  # torch's own, so that its message comes before the kill
    places = [Rendezvous(backend, ip, port, topic, first + i, world_size, i, timeout) for i in range(own)]
    outcomes = _fork(places, comm_environment(me.link), deadline)
    hosts, seconds = [host for host, _ in sides], time.monotonic() - started
    problems = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if problems:
        return PairResult(number, hosts, me.host, backend, seconds, problem=problems[0])
    ranks = [outcome for outcome in outcomes if isinstance(outcome, Measured)]
    return PairResult(
        number,
        hosts,
        me.host,
        backend,
        seconds,
        correct=all(rank.correct for rank in ranks),
        latency=max(rank.latency for rank in ranks),
        bus_bandwidth={size: min(rank.bus_bandwidth[size] for rank in ranks) for size in ranks[0].bus_bandwidth},
    )


def _fork(places: Sequence[Rendezvous], environment: dict[str, str], deadline: float) -> list[Measured | str]:
    """What each rank measured, or what went wrong with it. All of them are gone when this returns."""
    # The site profile's own choice has come in through the environment, and wins.
    environment = {key: value for key, value in environment.items() if key not in os.environ}
    ranks, receivers = [], []
    for rendezvous in places:
        receiver, sender = FORK.Pipe(duplex=False)
        ranks.append(FORK.Process(target=_rank, args=(rendezvous, environment, sender), daemon=True))
        ranks[-1].start()
        sender.close()  # so that a dead rank is an end of file, and no later rank inherits it
        receivers.append(receiver)
    outcomes = [_receive(receiver, deadline) for receiver in receivers]
    for rank in ranks:
        rank.join(timeout=max(min(deadline - time.monotonic(), 1), 0))
        rank.kill()
        rank.join(timeout=1)  # one that hangs in a driver outlives even that
    return outcomes


def _rank(rendezvous: Rendezvous, environment: dict[str, str], sender: Connection) -> None:
    try:
        sender.send(all_reduce(rendezvous, environment))
    except (RuntimeError, ValueError, OSError) as error:  # torch's DistError and its children are RuntimeErrors
        sender.send(_one_line(error))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _receive(receiver: Connection, deadline: float) -> Measured | str:
    if not wait([receiver], timeout=max(deadline - time.monotonic(), 0)):
        return "the all-reduce did not finish within its time limit"
    try:
        outcome: Measured | str = receiver.recv()
    except EOFError:
        return "a process of the all-reduce died"
    return outcome


def _parse(argv: Sequence[str] | None) -> Self:
    parser = argparse.ArgumentParser(prog="python -m cluster.probes.pairwise", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the job's folder, shared by all hosts")
    parser.add_argument("--host", required=True, help="this host's name among --hosts")
    parser.add_argument("--hosts", required=True, help="all hosts, with commas, in the same order everywhere")
    parser.add_argument("--ip", required=True)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--port", type=int, required=True, help="a free port of this host, for the rendezvous")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds for all hosts to connect")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for each measurement")
    given = parser.parse_args(argv)
    hosts = given.hosts.split(",")
    if given.host not in hosts or not math.isfinite(given.timeout + given.patience):
        parser.error(f"--host {given.host} is not among --hosts {given.hosts}, or a time is not a number")
    link = Link(given.ip, given.interface)
    return Self(given.folder, given.host, hosts, link, given.port, given.gpus, given.patience, given.timeout)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 when all of this host's measurements succeeded, 1 when one did not."""
    results = play(_parse(argv))
    for result in results:
        print(f"{' and '.join(result.hosts)}: {result.problem or 'passed'}", flush=True)
    return int(any(result.problem or not result.correct for result in results))


if __name__ == "__main__":
    sys.exit(main())
