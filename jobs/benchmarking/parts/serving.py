"""One model and the same requests in three ways, one after the other on one GPU: the engine alone, `vllm serve` with
the seed's client, and ours, which is then given 2, 4, … replicas and as many times the requests.

Seconds go from the first request to the last answer; the start of an engine and a warm-up come before.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import ray
from ray.exceptions import RayError

from jobs.benchmarking.parts.models import BenchModel, find_model
from jobs.benchmarking.parts.offline import STOP_SECONDS, Figures, RequestOrder, run_engine, run_vllm_serve
from jobs.benchmarking.parts.rows import prompts
from jobs.benchmarking.results import Device, Serve, Serving, Way
from jobs.benchmarking.spec import BenchSpec, ServeSpec
from orchestrator.concurrency.window import EngineWindow
from orchestrator.console import say
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.errors import EndpointDown, KosenError, SpecError, cause_of
from orchestrator.events import Events
from orchestrator.ray_cluster.connect import Cluster
from orchestrator.records.types import Question, Wanted
from orchestrator.records.writer_client import call, open_writer
from orchestrator.serving import deploy
from orchestrator.serving.options import engine_kwargs, max_num_seqs
from orchestrator.serving.spec import ServingSpec
from orchestrator.stages.predict import PredictConfig, PredictWorker
from orchestrator.stages.stage import Pick, RowStore, configure_ray_data, run_stage
from orchestrator.steering.controller import steered

MODELS: dict[Device, str] = {"cuda": "8b", "cpu": "tiny"}
WORKERS = 180  # requests in flight of the seed's client
WAY_SECONDS = 7200.0  # one way, its engine's start included
REQUEST_SECONDS = 3600.0
WARM_UP_REQUESTS = 64  # requests a replica: several full batches of prompts, and all steps of an answer
WARM_UP = "warm-up "  # before the ids of requests that do not count


@dataclass(frozen=True)
class Workload:
    """What is asked."""

    requests: int
    prompt_tokens: int
    output_tokens: int
    max_num_seqs: int
    # In a step, for all ways: by vLLM's defaults its servers have less than `LLM`. None: vLLM's default.
    max_num_batched_tokens: int | None = None


LOADS: dict[Device, Workload] = {"cuda": Workload(2048, 520, 256, 512, 16384), "cpu": Workload(8, 32, 16, 8)}


def measure(spec: BenchSpec, folder: Path, cluster: Cluster) -> None:
    """Write serve.json after each way; ways that are in it already are not measured again.

    Raises SpecError and ClusterNotReady, and EndpointDown for ways that failed, after all others were measured.
    """
    device = spec.settle_device(cluster.gpus)
    cluster = cluster if device == "cuda" else replace(cluster, gpus=0)
    load, model = _load(spec.serve, device), find_model(spec.serve.model or MODELS[device], folder)
    options = serving_spec(model, load)
    counts = replica_counts(spec.serve, cluster.gpus)
    order = RequestOrder(
        model=model.source,
        options=engine_kwargs(model.source, options, cluster.gpus),
        messages=prompts(load.requests * max(counts), load.prompt_tokens, model.source),
        output_tokens=load.output_tokens,
        warm_up=WARM_UP_REQUESTS,
        seconds=WAY_SECONDS,
    )
    alone = order.first(load.requests)
    ways = [
        _Way("engine", None, 1, lambda: _in_a_task(run_engine, cluster, alone)),
        _Way("vllm_serve", WORKERS, 1, lambda: _in_a_task(run_vllm_serve, cluster, alone, WORKERS)),
        *(_ours(order.first(load.requests * count), options, count, folder, cluster) for count in counts),
    ]
    _measure_ways([way for way in ways if way.name in spec.serve.ways], model.name, load, folder)


class _Way(NamedTuple):
    name: Way
    in_flight: int | None  # requests at most; None: all
    replicas: int
    run: Callable[[], Figures]

    def __str__(self) -> str:
        return f"{self.name}, {self.replicas} replica(s)"


def _measure_ways(ways: list[_Way], model: str, load: Workload, folder: Path) -> None:
    earlier = Serve.earlier(folder)
    known = {(way.way, way.replicas): way for way in earlier.ways} if earlier else {}
    problems: list[str] = []
    for way in ways:
        if (way.name, way.replicas) in known:
            say(f"serve: {way}: measured already")
            continue
        requests = load.requests * way.replicas
        say(f"serve: {way}, {requests} requests of {load.prompt_tokens} + {load.output_tokens} tokens")
        try:
            found = way.run()
        except KosenError as error:  # an engine's log may be part of it, and ends with the reason
            say(f"serve: {way}: {error}")
            problems.append(f"{way}: {str(error).splitlines()[-1].strip()}")
            continue
        say(f"serve: {way}, {found.output_tokens / found.seconds:,.0f} output tokens/s")
        sizes = {"in_flight": way.in_flight, "replicas": way.replicas, "requests": requests}
        known[way.name, way.replicas] = Serving.model_validate({"way": way.name, **sizes, **found._asdict()})
        _write(known, ways, model, load, folder)
    if problems:
        raise EndpointDown(
            f"{len(problems)} of {len(ways)} ways could not be measured ({'; '.join(problems)}). The others are in "
            f"{folder / Serve.file}; the same command measures what is missing"
        )


def _write(known: dict[tuple[Way, int], Serving], ways: list[_Way], model: str, load: Workload, folder: Path) -> None:
    """In the order of `ways`."""
    measured = [known[key] for way in ways if (key := (way.name, way.replicas)) in known]
    sizes = {name: getattr(load, name) for name in ("prompt_tokens", "output_tokens", "max_num_seqs")}
    Serve(model=model, **sizes, ways=measured).write(folder)


def replica_counts(spec: ServeSpec, gpus: int) -> list[int]:
    """As many as the spec names, by default 1, 2, 4, … up to all GPUs. Raises SpecError for more than there are."""
    room = max(1, gpus)
    if spec.replicas == "auto":
        return [count for count in (1, 2, 4, 8, 16, 32, 64) if count <= room]
    if max(spec.replicas) > room:
        raise SpecError(f"serve.replicas={spec.replicas}, but the cluster has room for {room}: a GPU each")
    return spec.replicas


def _ours(order: RequestOrder, options: ServingSpec, replicas: int, folder: Path, cluster: Cluster) -> _Way:
    sized = options.model_copy(update={"replicas": replicas})
    most = deploy.capacity(sized, cluster.gpus)
    records = folder / "serving" / f"{replicas}-replicas"
    return _Way("kosen", most, replicas, lambda: run_ours(order, sized, records, cluster))


def _load(spec: ServeSpec, device: Device) -> Workload:
    usual = LOADS[device]
    return Workload(
        requests=spec.requests or usual.requests,
        prompt_tokens=spec.prompt_tokens or usual.prompt_tokens,
        output_tokens=spec.output_tokens or usual.output_tokens,
        max_num_seqs=spec.max_num_seqs or usual.max_num_seqs,
        max_num_batched_tokens=usual.max_num_batched_tokens,
    )


def serving_spec(model: BenchModel, load: Workload) -> ServingSpec:
    """The engine of all ways. It has no prefix cache: real questions have little in common."""
    dummy = {"load_format": "dummy"} if model.random_weights else {}
    return ServingSpec(
        max_model_len=2 * (load.prompt_tokens + load.output_tokens),
        max_num_seqs=load.max_num_seqs,
        max_num_batched_tokens=load.max_num_batched_tokens,
        engine_kwargs={"enable_prefix_caching": False, **dummy},
    )


def _in_a_task(run: Callable[..., Figures], cluster: Cluster, *arguments: Any) -> Figures:
    """A process of Ray's with a GPU of its own, which ends with the call."""
    options: dict[str, Any] = {"num_cpus": 1, "num_gpus": min(1, cluster.gpus), "max_calls": 1, "max_retries": 0}
    reference = ray.remote(**options, runtime_env=deploy.runtime_env(cluster))(run).remote(*arguments)
    try:
        found: Figures = ray.get(reference, timeout=WAY_SECONDS + 2 * STOP_SECONDS)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(reference, force=True)
        raise EndpointDown(f"no answers within {WAY_SECONDS:.0f} s. Give fewer serve.requests=") from None
    except RayError as error:
        raise cause_of(error) from error
    return found


@dataclass(frozen=True)
class _Config(PredictConfig):
    """And where each actor leaves the seconds of CPU that it used."""

    cpu: Path


class _CountedWorker(PredictWorker):
    """The worker of `jobs.predict`, on the clock."""

    def __init__(self, config: _Config, window: int) -> None:
        super().__init__(config, window)
        self._began, self._file = time.process_time(), config.cpu / str(os.getpid())

    async def work(self, rows: list[dict[str, Any]]) -> None:
        await super().work(rows)
        self._file.write_text(str(time.process_time() - self._began))


def question(row: dict[str, Any]) -> Question:
    """What is asked of a row with an `id` and `messages`."""
    return Question(Wanted(row["id"], 0, "", ""), row["messages"], "")


def run_ours(order: RequestOrder, options: ServingSpec, records: Path, cluster: Cluster) -> Figures:
    """As `jobs.predict` does it, a window that follows the engines included; the answers stay in the folder `records`.

    Raises SpecError, EndpointDown and StorageFailed.
    """
    shutil.rmtree(records, ignore_errors=True)  # what has an answer there would not be asked again
    configure_ray_data()
    with phase("start of the engines"):
        endpoint = deploy.deploy(order.model, options, cluster, progress=say)
    most, seats = deploy.capacity(options, cluster.gpus), max_num_seqs(options, cluster.gpus)
    try:
        with open_writer(records) as writer:
            asked = _Asked(endpoint, order, most, records, writer)
            with phase("warm-up"):
                asked.ask(order.messages[: order.warm_up * options.replicas], WARM_UP, start=most)
            budget = order.output_tokens
            window = EngineWindow(engines=options.replicas, seats=seats, most=most, budget=budget)
            tell, note = partial(writer.set_window.remote, "predict"), Events(records).add
            with phase("requests"), steered(str(endpoint.serve_app), window, tell=tell, note=note):
                cpu = asked.ask(order.messages, "", start=deploy.opening(options, cluster.gpus))
    finally:
        with phase("end of the engines"):
            deploy.release(endpoint, cluster)
    return read_records(counted_records(records), cpu)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Say how long the block took, also if it failed."""
    began = time.monotonic()
    try:
        yield
    finally:
        say(f"{name}: {time.monotonic() - began:.1f} s")


@dataclass(frozen=True)
class _Asked:
    """An endpoint and where its answers go."""

    endpoint: Endpoint
    order: RequestOrder
    most: int  # requests in flight
    records: Path
    writer: Any

    def ask(self, messages: list[Any], prefix: str, *, start: int) -> float:
        """Ask all, `start` of them at once at first; the clients' seconds of CPU."""
        rows = [{"id": f"{prefix}{number}", "messages": one} for number, one in enumerate(messages)]
        call(self.writer.plan, [question(row).wanted for row in rows])
        cpu = self.records / f"{prefix}cpu"
        cpu.mkdir(exist_ok=True)
        config = _Config(
            writer=self.writer,
            build=question,
            endpoint=self.endpoint,
            options=self.order.sampling,
            request_timeout=REQUEST_SECONDS,
            start=start,
            most=self.most,
            cpu=cpu,
        )
        picks = [Pick(place, 0) for place in range(len(rows))]
        run_stage(_CountedWorker, config, RowStore(rows), picks, total=len(rows), window=self.most)
        return sum(float(file.read_text()) for file in cpu.iterdir())


def counted_records(records: Path) -> list[dict[str, Any]]:
    """The answers in a folder of `run_ours` but for the warm-up's; those so far, if it was interrupted."""
    file = records / "predictions.jsonl"
    lines = [orjson.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []
    return [line for line in lines if not line["id"].startswith(WARM_UP)]


def read_records(records: list[dict[str, Any]], cpu: float | None) -> Figures:
    """From the first request sent to the last answer; the records' times are rounded to milliseconds."""
    starts = [datetime.fromisoformat(record["started_at"]).timestamp() for record in records]
    ends = [start + record["seconds"] for start, record in zip(starts, records, strict=True)]
    answered = [record for record in records if record["status"] != "failed"]
    return Figures(
        seconds=max(ends) - min(starts),
        output_tokens=sum(record["usage"]["completion_tokens"] for record in answered),
        failed=len(records) - len(answered),
        client_cpu=cpu,
    )
