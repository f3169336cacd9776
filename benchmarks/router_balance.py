"""Whether Serve's router keeps the engines of a deployment equally busy when answers differ much in length.

    python benchmarks/router_balance.py [--replicas 2] [--seats S] [--window W] [--requests N] [--rounds 3]

A model with random weights answers on one vLLM engine alone and then on all replicas, on GPUs where there are any.
Requests go the way of `jobs.predict`: its client, records, a window that follows the engines. Meanwhile the engines'
numbers are read once a second from Ray's pages, which a cluster that this command starts renews every second; one
that runs already does so every 10 s, unless RAY_metrics_report_interval_ms said otherwise when it was started.

A line of JSON a round. Requests and tokens of an engine are counted over the whole round. What is a mean or a share of
readings is taken while there was still something to send: from the first reading that shows half of the window at the
engines to the last request sent. The pages of two replicas are seconds apart, which would look like imbalance: how far
apart they are, and whether requests wait beside a free seat, is from Serve's own count of each replica's requests (one
that has more than its seats has some that wait), asked of all replicas at once.

Without GPUs all replicas share this machine's cores: such a run shows who gets which requests. It cannot show
throughput; the time against the ideal then tells of the cores more than of the router.
"""

import argparse
import json
import math
import os
import random
import shutil
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.actor import ActorHandle

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from jobs.benchmarking.parts.models import find_model  # noqa: E402
from jobs.benchmarking.parts.rows import prompts  # noqa: E402
from jobs.benchmarking.parts.serving import MODELS, question, read_records  # noqa: E402
from jobs.benchmarking.results import Device  # noqa: E402
from orchestrator.concurrency.window import EngineWindow  # noqa: E402
from orchestrator.console import say  # noqa: E402
from orchestrator.endpoints.endpoint import Endpoint  # noqa: E402
from orchestrator.errors import EndpointDown, run_command  # noqa: E402
from orchestrator.events import Events  # noqa: E402
from orchestrator.ray_cluster.connect import Cluster, connect  # noqa: E402
from orchestrator.records.writer_client import call, open_writer  # noqa: E402
from orchestrator.serving import deploy  # noqa: E402
from orchestrator.serving.spec import ServingSpec  # noqa: E402
from orchestrator.stages.predict import PredictConfig, PredictWorker  # noqa: E402
from orchestrator.stages.stage import Pick, RowStore, configure_ray_data, run_stage  # noqa: E402
from orchestrator.steering.controller import steered  # noqa: E402
from orchestrator.steering.engine_loads import Reading, live_replicas, read_pages, readings  # noqa: E402

SEATS = {"cuda": 256, "cpu": 16}  # sequences that an engine decodes at once
REQUESTS_A_SEAT = 25
PROMPT_TOKENS = 32
MEDIAN_TOKENS, SIGMA, MOST_TOKENS = 96, 1.0, 1024  # of an answer; log-normal, so the mean is 1.6 medians
REQUEST_SECONDS = 3600.0
LOOK = 1.0  # seconds between readings
REPORT_SECONDS = 60.0  # that the engines' last numbers may take to be on the pages
SERVED = "ray_vllm_request_success_total"


@dataclass(frozen=True)
class Setting:
    """What is deployed and asked."""

    model: str
    replicas: int
    seats: int
    window: int  # requests in flight at most


@dataclass(frozen=True)
class Look:
    """What the pages show at `at`, seconds of the epoch, of each replica; requests and tokens since its start."""

    at: float
    loads: dict[str, Reading]
    served: Counter[str]
    held: dict[str, int]  # requests that each replica has, which it is asked itself


@dataclass(frozen=True)
class Asked:
    """One round: its records, and the looks at the engines before, during and after it."""

    records: list[dict[str, Any]]
    looks: list[Look]


class Worker(PredictWorker):
    """The worker of `jobs.predict`, with a budget for each question."""

    def options(self, row: dict[str, Any]) -> dict[str, Any]:
        return super().options(row) | {"max_tokens": row["max_tokens"]}


def serving_spec(replicas: int, seats: int) -> ServingSpec:
    """Without a prefix cache, as in `jobs.bench`."""
    return ServingSpec(
        replicas=replicas,
        max_model_len=2 * (PROMPT_TOKENS + MOST_TOKENS),
        max_num_seqs=seats,
        engine_kwargs={"enable_prefix_caching": False, "load_format": "dummy"},
    )


def draw_rows(model: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Questions whose answers have log-normal lengths."""
    rng = random.Random(seed)
    lengths = (round(rng.lognormvariate(math.log(MEDIAN_TOKENS), SIGMA)) for _ in range(count))
    return [
        {"id": str(number), "messages": messages, "max_tokens": min(MOST_TOKENS, max(1, length))}
        for number, (messages, length) in enumerate(zip(prompts(count, PROMPT_TOKENS, model), lengths, strict=True))
    ]


def ask(setting: Setting, endpoint: Endpoint, rows: list[dict[str, Any]], folder: Path) -> Asked:
    """Ask all rows on a new record log, the engines watched."""
    shutil.rmtree(folder, ignore_errors=True)  # what has an answer there would not be asked again
    app, most = str(endpoint.serve_app), setting.window
    with open_writer(folder) as writer, watched(app) as looks:
        before = looks[0]
        call(writer.plan, [question(row).wanted for row in rows])
        config = PredictConfig(
            writer=writer,
            build=question,
            endpoint=endpoint,
            options={"ignore_eos": True, "temperature": 0.0},
            request_timeout=REQUEST_SECONDS,
            start=most,
            most=most,
        )
        picks, count = [Pick(place, 0) for place in range(len(rows))], len(rows)
        window = EngineWindow(engines=setting.replicas, seats=setting.seats, most=most)
        with steered(app, window, tell=partial(writer.set_window.remote, "predict"), note=Events(folder).add):
            run_stage(Worker, config, RowStore(rows), picks, total=count, window=most)
        wait_for_reports(looks, before, len(rows))
    lines = (folder / "predictions.jsonl").read_bytes().splitlines()
    return Asked([orjson.loads(line) for line in lines], list(looks))


@contextmanager
def watched(app: str) -> Iterator[list[Look]]:
    """Looks at the application's engines, the first one at once."""
    replicas, over = replica_actors(app), threading.Event()
    looks = [look(replicas)]

    def watch() -> None:
        while not over.wait(LOOK):
            looks.append(look(replicas))

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield looks
        finally:
            over.set()
            watching.result()


def replica_actors(app: str) -> dict[str, ActorHandle]:
    """The engines' actors by their replicas' ids."""
    names = [str(actor["name"]) for actor in ray.util.list_named_actors(all_namespaces=True)]
    alive = live_replicas(app)
    ids = {name.rpartition("#")[2]: name for name in names}
    return {one: ray.get_actor(ids[one], namespace="serve") for one in alive}


def look(replicas: dict[str, ActorHandle]) -> Look:
    counts = ray.get([actor.get_num_ongoing_requests.remote() for actor in replicas.values()])
    pages = read_pages()
    loads, served = readings(pages), count_served(pages)
    return Look(
        at=time.time(),
        loads={name: loads.get(name, Reading()) for name in replicas},
        served=Counter({name: served[name] for name in replicas}),
        held=dict(zip(replicas, counts, strict=True)),
    )


def count_served(pages: list[str]) -> Counter[str]:
    """Finished requests of each replica."""
    counts = Counter[str]()
    lines = (line for page in pages for line in page.splitlines() if line.startswith(SERVED))
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            counts[sample.labels["ReplicaId"]] += int(sample.value)
    return counts


def wait_for_reports(looks: list[Look], before: Look, requests: int) -> None:
    """Until the pages show all requests, so that none is missing and none counts for the next round."""
    deadline = time.monotonic() + REPORT_SECONDS
    while (shown := (looks[-1].served - before.served).total()) < requests:
        if time.monotonic() > deadline:
            raise EndpointDown(f"the engines report {shown} of {requests} requests after {REPORT_SECONDS:.0f} s")
        time.sleep(LOOK)


def show_round(setting: Setting, asked: Asked, alone: float) -> dict[str, Any]:
    """`alone`: output tokens/s of one engine."""
    figures = read_records(asked.records, cpu=0.0)
    engines = [engine(asked.looks, sending(setting, asked), name) for name in sorted(asked.looks[0].loads)]
    tokens = [one["output_tokens"] for one in engines]
    ideal = figures.output_tokens / (setting.replicas * alone)
    return {
        "requests": len(asked.records),
        "failed": figures.failed,
        "output_tokens": figures.output_tokens,
        "in_flight": round(in_flight(asked.records), 1),
        "engines": engines,
        "least_to_most_tokens": round(min(tokens) / max(tokens), 3),
        **show_readings(setting, sending(setting, asked)),
        "seconds": round(figures.seconds, 1),
        "ideal_seconds": round(ideal, 1),
        "over_ideal": round(figures.seconds / ideal, 3),
    }


def sending(setting: Setting, asked: Asked) -> list[Look]:
    """The looks that count."""
    last = max(datetime.fromisoformat(record["started_at"]).timestamp() for record in asked.records)
    held = [sum(one.running + one.waiting for one in look.loads.values()) for look in asked.looks]
    begin = next((place for place, count in enumerate(held) if count >= setting.window / 2), len(held))
    return [look for look in asked.looks[begin:] if look.at <= last]


def engine(looks: list[Look], counted: list[Look], name: str) -> dict[str, Any]:
    """One replica's part in a round."""
    first, last = looks[0], looks[-1]
    return {
        "requests": last.served[name] - first.served[name],
        "output_tokens": last.loads[name].tokens - first.loads[name].tokens,
        "mean_running": mean(look.loads[name].running for look in counted),
        "mean_waiting": mean(look.loads[name].waiting for look in counted),
    }


def show_readings(setting: Setting, looks: list[Look]) -> dict[str, Any]:
    """How far apart the replicas were at each look."""
    counts = [list(look.held.values()) for look in looks]
    beside = (max(count) > setting.seats > min(count) for count in counts)
    return {
        "readings": len(looks),
        "most_minus_least_requests": mean(max(count) - min(count) for count in counts),
        "waiting_beside_free_seat": mean(beside, digits=3),
    }


def mean(values: Iterable[float], digits: int = 1) -> float | None:
    found = list(values)
    return round(statistics.fmean(found), digits) if found else None


def in_flight(records: list[dict[str, Any]]) -> float:
    """Requests in flight at the client, the mean from the first request sent to the last one sent."""
    starts = [datetime.fromisoformat(record["started_at"]).timestamp() for record in records]
    ends = [start + record["seconds"] for start, record in zip(starts, records, strict=True)]
    last = max(starts)
    return sum(min(end, last) - start for start, end in zip(starts, ends, strict=True)) / (last - min(starts))


@contextmanager
def deployed(setting: Setting, cluster: Cluster, folder: Path) -> Iterator[Endpoint]:
    """The endpoint, once every engine has answered and reports."""
    endpoint = deploy.deploy(setting.model, serving_spec(setting.replicas, setting.seats), cluster, progress=say)
    try:
        rows = draw_rows(setting.model, 2 * setting.window, seed=-1)
        ask(setting, endpoint, [row | {"max_tokens": 16} for row in rows], folder / "warm-up")
        yield endpoint
    finally:
        deploy.release(endpoint, cluster)


def measure_alone(setting: Setting, requests: int, cluster: Cluster, folder: Path) -> float:
    """Output tokens/s of one engine with its share of the window and of the requests."""
    with deployed(setting, cluster, folder) as endpoint:
        asked = ask(setting, endpoint, draw_rows(setting.model, requests, seed=0), folder / "alone")
    figures = read_records(asked.records, cpu=0.0)
    rate = figures.output_tokens / figures.seconds
    show({"alone": {"requests": requests, "output_tokens": figures.output_tokens, "tokens_per_second": round(rate)}})
    return rate


def show(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seats", type=int, help="sequences that an engine decodes at once")
    parser.add_argument("--window", type=int, help="requests in flight; default: as in `jobs.predict`, 1.25 a seat")
    parser.add_argument("--requests", type=int, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")  # of a cluster that is started here
    configure_ray_data()
    with connect() as cluster:
        folder = cluster.run_folder("router_balance")
        device: Device = "cuda" if cluster.gpus else "cpu"
        seats = args.seats or SEATS[device]
        window = args.window or deploy.capacity(serving_spec(args.replicas, seats), cluster.gpus)
        requests = args.requests or REQUESTS_A_SEAT * seats * args.replicas
        model = find_model(MODELS[device], folder).source
        setting = Setting(model, args.replicas, seats, window)
        one = Setting(model, 1, seats, window // args.replicas)
        alone = measure_alone(one, requests // args.replicas, cluster, folder)
        with deployed(setting, cluster, folder) as endpoint:
            for number in range(args.rounds):
                asked = ask(setting, endpoint, draw_rows(model, requests, seed=number), folder / f"round{number}")
                sizes = {"round": number, "replicas": args.replicas, "seats": seats, "window": window}
                show(sizes | show_round(setting, asked, alone))
    return 0


if __name__ == "__main__":
    run_command(main)
