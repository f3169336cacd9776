"""Finds slow or broken nodes from the pairwise all-reduce results."""

from collections import Counter
from collections.abc import Iterable, Sequence

from cluster.preflight.findings import Finding, Severity
from cluster.probes.collective import Backend
from cluster.probes.pairwise import PairResult

Pair = frozenset[str]
# A pair is slow below a quarter of the best one: switches with a third of the bandwidth upwards are common, and meant.
SLOW_SHARE = 0.25
# Bytes/s of bus bandwidth below which a link is slow whatever the others do. NCCL over plain 10 Gbit Ethernet has 1e9;
# Gloo over a gigabit one has 1e8, and a third of that where the CPUs are busy.
FLOOR: dict[Backend, float] = {"nccl": 1e9, "gloo": 3e7}
# Bytes/s that are enough whatever the others do: Gloo carries control messages, and its figure depends on the CPUs.
ENOUGH: dict[Backend, float] = {"nccl": float("inf"), "gloo": 1e8}
LATENCY_MOST = 0.005  # seconds; 0.1 to 0.5 ms over Ethernet. 5 ms is another town, lost packets or a busy node


def judge_pairs(results: Sequence[PairResult], hosts: Sequence[str], leave_out: str = "") -> list[Finding]:
    """Findings that name a node wherever the measurements of `hosts` show which one it is.

    `leave_out` is what keeps node {} out of the next job, in the words of the scheduler.
    """
    away = f"leave it out{' with ' if leave_out else ''}{leave_out} and tell the administrators"
    named = _named(results, hosts, away)
    guilty = {finding.node for finding in named}
    clear = [result for result in results if not guilty & set(result.hosts)]
    broken = [result for result in clear if result.problem or not result.correct]
    found = named + _blame(broken, clear, "error", away)
    guilty |= {finding.node for finding in found}
    whole = [result for result in clear if result not in broken and not guilty & set(result.hosts)]
    slow = _slow(whole)
    return (found + _blame(slow, whole, "warning", away)) or [_fine(results)]


def _named(results: Sequence[PairResult], hosts: Sequence[str], away: str) -> list[Finding]:
    """The nodes that a single measurement names: they did not come, failed alone, or fell silent."""
    seen = {result.blame: result.problem for result in results if result.blame and result.problem}
    spoke = {result.seen_by for result in results}
    seen |= {host: "its measuring process ended without a result" for host in hosts if host not in spoke | set(seen)}
    seen |= {
        result.hosts[0]: "an all-reduce inside it gave wrong sums"
        for result in results
        if len(result.hosts) == 1 and result.correct is False
    }
    advice = "See the end of its log; if the node hangs, " + away
    return [Finding("error", "links", host, problem, advice.format(host)) for host, problem in seen.items()]


def _blame(bad: Sequence[PairResult], tested: Sequence[PairResult], severity: Severity, away: str) -> list[Finding]:
    """One finding for each node that the bad measurements have in common, and one for each pair that is left over."""
    reasons: dict[Pair, str] = {}
    for result in bad:
        reasons.setdefault(frozenset(result.hosts), _describe(result))
    pairs = {frozenset(result.hosts) for result in tested}
    culprits = _common(set(reasons), pairs) or _slow_alone(set(reasons), tested)
    advice = "Check its interface (`ip -s link`, `ibstat`), or " + away
    found = []
    for host in sorted(culprits):
        partners = sorted(next(iter(pair - {host}), host) for pair in reasons if host in pair)
        example = next(text for pair, text in reasons.items() if host in pair)
        seen = f"its links to {', '.join(partners)}: {example}"
        found.append(Finding(severity, "links", host, seen, advice.format(host)))
    for pair, text in reasons.items():
        if not pair & culprits:
            found.append(_undecided(pair, text, severity, total=len({host for pair in pairs for host in pair})))
    return found


def _common(bad: set[Pair], tested: set[Pair]) -> set[str]:
    """The nodes with the highest share of bad pairs, where at least two pairs say so and not every node has it."""
    played = Counter(host for pair in tested if len(pair) == 2 for host in pair)
    failed = Counter(host for pair in bad if len(pair) == 2 for host in pair)
    share = {host: failed[host] / played[host] for host in failed}
    highest = max(share.values(), default=0)
    leaders = {host for host in share if share[host] == highest and failed[host] >= 2}
    if not leaders or leaders == set(played):
        return set()
    return leaders | _common({pair for pair in bad if not pair & leaders}, tested)


def _slow_alone(bad: set[Pair], tested: Sequence[PairResult]) -> set[str]:
    """Of a bad pair, the node that is slow by itself as well. Nothing else decides between two."""
    alone = {result.hosts[0]: _bandwidth(result) for result in tested if len(result.hosts) == 1}
    known = {host: rate for host, rate in alone.items() if rate is not None and any(host in pair for pair in bad)}
    best = max(known.values(), default=0.0)
    return {host for host, rate in known.items() if rate < SLOW_SHARE * best}


def _slow(results: Sequence[PairResult]) -> list[PairResult]:
    """The measurements of two nodes that were slower than allowed."""
    pairs = [result for result in results if len(result.hosts) == 2]
    best: dict[Backend, float] = {}
    for result in pairs:
        best[result.backend] = max(best.get(result.backend, 0.0), _bandwidth(result) or 0.0)
    return [result for result in pairs if _is_slow(result, best[result.backend])]


def _is_slow(result: PairResult, best: float) -> bool:
    rate = _bandwidth(result)
    least = max(FLOOR[result.backend], min(SLOW_SHARE * best, ENOUGH[result.backend]))
    return (rate is not None and rate < least) or (result.latency or 0.0) > LATENCY_MOST


def _undecided(pair: Iterable[str], text: str, severity: Severity, total: int) -> Finding:
    names = sorted(pair)
    why = "with two nodes" if total == 2 else "from these pairs"
    advice = f"Which of the two is slow is not known {why}: test each of them with another node, or check the switch"
    return Finding(severity, "links", " and ".join(names), text, advice)


def _describe(result: PairResult) -> str:
    if result.problem:
        return result.problem
    if not result.correct:
        return "the all-reduce gave wrong sums"
    return _speed(result)


def _speed(result: PairResult) -> str:
    rate = _bandwidth(result)
    bandwidth = "not measured" if rate is None else f"{rate / 1e9:.3g} GB/s"
    latency = "not measured" if result.latency is None else f"{result.latency * 1e3:.3g} ms"
    return f"{result.backend} bus bandwidth {bandwidth}, latency {latency}"


def _bandwidth(result: PairResult) -> float | None:
    """Bytes/s of the largest message."""
    return result.bus_bandwidth[max(result.bus_bandwidth)] if result.bus_bandwidth else None


def _fine(results: Sequence[PairResult]) -> Finding:
    pairs = [result for result in results if len(result.hosts) == 2] or list(results)
    slowest = min(pairs, key=lambda result: _bandwidth(result) or float("inf"))
    count = len({frozenset(result.hosts) for result in pairs})
    seen = f"{count} measured, the slowest {'-'.join(slowest.hosts)} with {_speed(slowest)}"
    return Finding("ok", "links", "all nodes", seen)
