"""From the pages of Ray's nodes to the window that the actors get, with pages and clock of the test's own."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.concurrency.window import EngineWindow
from orchestrator.steering import controller
from orchestrator.steering.engine_loads import Reading, readings
from orchestrator.steering.stalls import STALLED, Stalls

LABELS = 'Component="core_worker",NodeAddress="10.0.0.1",WorkerId="ad8f",engine="{engine}",model_name="/models/m"'


def page(**replicas: Reading) -> str:
    """As Ray 2.60 and vLLM 0.29 write it: no line for preemptions before the first one, and much else."""
    lines = ["# HELP ray_vllm_num_requests_running Number of requests", "# TYPE ray_vllm_num_requests_running gauge"]
    for name, reading in replicas.items():
        labels = "{" + LABELS.format(engine=0) + f',ReplicaId="{name}"' + "}"
        lines.append(f"ray_vllm_num_requests_running{labels} {float(reading.running)}")
        lines.append(f"ray_vllm_num_requests_waiting{labels} {float(reading.waiting)}")
        lines.append(f"ray_vllm_kv_cache_usage_perc{labels} {reading.kv_usage}")
        reason = labels[:-1] + ',reason="capacity"}'
        lines.append(f"ray_vllm_num_requests_waiting_by_reason{reason} {float(reading.waiting)}")
        if reading.preemptions:
            lines.append("# TYPE ray_vllm_num_preemptions_total counter")
            lines.append(f"ray_vllm_num_preemptions_total{labels} {float(reading.preemptions)}")
    return "\n".join([*lines, 'ray_node_cpu_count{ip="10.0.0.1"} 16.0', ""])


def test_each_replica_is_told_apart_and_other_metrics_are_passed_over() -> None:
    numbers = {"a1": Reading(8, 4, 0.25, 3), "b2": Reading(7, 0, 0.5)}
    assert readings([page(**numbers), page(c3=Reading(1, 1, 1.0, 1)), page(), ""]) == numbers | {
        "c3": Reading(1, 1, 1.0, 1)
    }


def test_the_engines_of_a_data_parallel_replica_count_together() -> None:
    one = page(a1=Reading(8, 4, 0.25, 3))
    assert readings([one, one.replace('engine="0"', 'engine="1"').replace("0.25", "0.75")]) == {
        "a1": Reading(16, 8, 0.75, 6)
    }


def test_what_serve_says_of_a_replica_is_put_beside_what_its_engine_says() -> None:
    serve = 'ray_serve_replica_processing_queries{application="app",deployment="LLMServer",replica="a1"} 5.0'
    tokens = "ray_vllm_generation_tokens_total{" + LABELS.format(engine=0) + ',ReplicaId="a1"} 1234.0'
    pages = [page(a1=Reading(3, 1, 0.5)), f"# TYPE ray_vllm_generation_tokens_total counter\n{tokens}\n{serve}\n"]
    assert readings(pages) == {"a1": Reading(3, 1, 0.5, tokens=1234, asked=5)}


def stalled(stalls: Stalls, now: float, asked: dict[str, int | None], found: dict[str, Reading]) -> set[str]:
    return {name for name, seconds in stalls.observe(now, asked, found).items() if seconds >= STALLED}


def test_an_engine_without_a_token_is_told_of() -> None:
    stalls = Stalls()
    asked: dict[str, int | None] = {"a1": 3, "b2": 3}
    busy = {"a1": Reading(running=3, tokens=10), "b2": Reading(running=3, tokens=10)}
    assert stalled(stalls, 0, asked, busy) == set()
    assert stalled(stalls, STALLED - 1, asked, busy) == set()
    busy["b2"].tokens += 1
    assert stalled(stalls, STALLED, asked, busy) == {"a1"}
    stalls.forgive(STALLED, "a1")
    assert stalled(stalls, STALLED + 10, asked, busy) == set()
    assert stalled(stalls, 2 * STALLED, asked, busy) == {"a1", "b2"}


HANGS = Reading(tokens=10)  # Ray drops gauges that are not renewed, and keeps counters


@pytest.mark.parametrize(
    ("asked", "found", "told"),
    [
        (3, Reading(running=3, tokens=10), True),
        (3, HANGS, True),
        (1, HANGS, True),
        (None, HANGS, True),  # its replica hangs too
        (0, HANGS, False),  # nobody asks it
        (0, Reading(running=1, tokens=10), False),
        (3, None, False),  # its node shows no page, so its tokens are not known
    ],
)
def test_what_counts_is_what_was_asked_and_that_no_token_came(
    asked: int | None, found: Reading | None, told: bool
) -> None:
    stalls = Stalls()
    assert stalled(stalls, 0, {"a1": 3}, {"a1": Reading(running=3, tokens=10)}) == set()
    pages = {"a1": found} if found else {}
    for look in range(1, 70):
        last = stalled(stalls, 10.0 * look, {"a1": asked}, pages)
    assert last == ({"a1"} if told else set())


def test_an_engine_that_hangs_before_its_first_report_is_told_of() -> None:
    stalls = Stalls()
    for look in range(70):
        last = stalled(stalls, 10.0 * look, {"a1": 3, "b2": 3}, {"a1": Reading(tokens=look)})
    assert last == {"b2"}


def test_engines_that_report_nothing_and_one_that_loads_its_model_are_left_alone() -> None:
    stalls, loading = Stalls(), Stalls()
    for look in range(100):
        assert stalled(stalls, 10.0 * look, {"a1": 3}, {}) == set()
        assert stalled(loading, 10.0 * look, {"a1": 3, "b2": None}, {"a1": Reading(tokens=look)}) == set()


@pytest.mark.parametrize("tokens", [10, 0])
def test_an_engine_that_has_nothing_to_do_does_not_stand_still(tokens: int) -> None:
    stalls = Stalls()
    for look in range(100):
        assert stalled(stalls, 10.0 * look, {"a1": 0}, {"a1": Reading(tokens=tokens)}) == set()
    busy = Reading(running=1, tokens=tokens)  # its first token is not due yet
    assert stalled(stalls, 990 + STALLED - 1, {"a1": 1}, {"a1": busy}) == set()


class Cluster:
    """Two replicas, whose pages and lives the test decides, and what the steering makes of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alive = {"a1", "b2"}
        self.page = page()
        self.asked: dict[str, int | None] = {}
        self.told: list[int] = []
        self.events: list[dict[str, Any]] = []
        monkeypatch.setattr(controller, "live_replicas", lambda app: self.alive)
        monkeypatch.setattr(controller, "read_pages", lambda: [self.page])
        monkeypatch.setattr(controller, "asked_of", lambda app: self.asked)
        monkeypatch.setattr(controller, "POLL", 0.01)
        monkeypatch.setattr(controller, "READ", 0.03)

    def steer(self) -> Any:
        window = EngineWindow(engines=2, seats=100, most=300)
        return controller.steered("app", window, tell=self.told.append, note=self.note)

    def note(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event} | fields)

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, (self.told, self.events)
            time.sleep(0.005)


@pytest.mark.parametrize("reported", [True, False])
def test_an_engine_that_stands_still_is_said_ended_and_noted(
    reported: bool, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the window was fixed because nothing reported at first."""
    ended: list[tuple[str, str]] = []
    monkeypatch.setattr(controller, "STALLED", 0.4)
    monkeypatch.setattr(controller, "QUIET", 0.1)
    monkeypatch.setattr(controller, "SILENT", 60 if reported else 0.05)
    monkeypatch.setattr(controller, "end_engine", lambda *what: ended.append(what))
    with cluster.steer():
        cluster.asked = {"a1": 0, "b2": 3}
        if not reported:
            cluster.wait(lambda: [event["event"] for event in cluster.events] == ["window_fixed"])
        cluster.page = page(a1=Reading(0, 0, 0.2), b2=Reading(0, 0, 0.2))
        cluster.wait(lambda: bool(ended))
        time.sleep(0.2)
    assert set(ended) == {("app", "b2")}
    stalls = [event for event in cluster.events if event["event"].startswith("engine_")]
    assert [event["event"] for event in stalls[:2]] == ["engine_silent", "engine_stalled"]
    assert {(event["replica"], event["requests"]) for event in stalls} == {("b2", 3)}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def test_the_window_follows_reports_deaths_and_returns(cluster: Cluster) -> None:
    busy, fed = Reading(100, 0, 0.2), Reading(100, 25, 0.2)
    with cluster.steer():
        assert cluster.told == [250]  # before anything is known: all seats, and a short queue
        cluster.page = page(a1=busy, b2=busy, of_another_app=Reading(999, 999, 1.0))
        cluster.wait(lambda: cluster.told[-1] == 300)
        cluster.page = page(a1=fed, b2=fed)
        time.sleep(0.2)
        cluster.alive = {"a1"}  # the other's last numbers stay on the page
        cluster.wait(lambda: cluster.told[-1] == 150)
        cluster.alive = {"a1", "c3"}  # Serve starts another: it lives, and loads its model
        time.sleep(0.2)
        assert cluster.told[-1] == 150
        cluster.page = page(a1=fed, b2=fed, c3=fed)
        cluster.wait(lambda: cluster.told[-1] == 300)
    told = list(cluster.told)
    time.sleep(0.1)
    assert cluster.told == told


def test_gauges_are_noted_when_the_window_turns_round_and_else_seldom(cluster: Cluster) -> None:
    with cluster.steer():
        cluster.page = page(a1=Reading(100, 0, 0.2), b2=Reading(100, 0, 0.2))
        cluster.wait(lambda: cluster.told[-1] == 300)
        time.sleep(0.2)
        assert cluster.events == []  # it only grew, and 30 s have not passed
        cluster.page = page(a1=Reading(100, 60, 0.2, 5), b2=Reading(100, 60, 0.4, 7))
        cluster.wait(lambda: bool(cluster.events))
    first = cluster.events[0]
    assert first["event"] == "window"
    assert (first["engines"], first["running"], first["waiting"]) == (2, 200, 120)
    assert (first["kv_usage"], first["preemptions"]) == (0.3, 12)
    assert first["window"] < 300
    assert len(cluster.events) == 1


def test_engines_that_report_nothing_get_the_fixed_window_and_it_is_said_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "SILENT", 0.1)
    with cluster.steer():
        cluster.wait(lambda: bool(cluster.events))
        time.sleep(0.2)
    assert cluster.told == [250, 300]
    assert [event["event"] for event in cluster.events] == ["window_fixed"]


def test_a_failure_of_the_events_file_is_raised_where_the_stage_runs(cluster: Cluster) -> None:
    def fail(event: str, **fields: Any) -> None:
        raise OSError("full")

    cluster.note = fail  # type: ignore[method-assign]
    steering_of = cluster.steer()
    with pytest.raises(OSError, match="full"), steering_of:
        cluster.page = page(a1=Reading(100, 0, 0.2), b2=Reading(100, 0, 0.2))
        cluster.wait(lambda: cluster.told[-1] == 300)
        cluster.page = page(a1=Reading(80, 60, 0.2), b2=Reading(80, 60, 0.2))
        time.sleep(0.3)
