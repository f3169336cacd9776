"""One exam run, from its spec to its records: what predict, judge and evaluate have in common."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import ray
from ray.actor import ActorHandle

from jobs.exam import provenance
from jobs.exam.judging import JUDGE_TIMEOUT, JudgeConfig, judge, preflight
from jobs.exam.requests import Requests, row_of
from jobs.exam.spec import (
    ExamSpec,
    earlier_identity,
    judge_endpoint_spec,
    judge_identity,
    model_endpoint_spec,
    request_options,
)
from jobs.exam.stages import StageThread, tell_failures
from jobs.tasks.registry import find_task, ship
from jobs.tasks.task import Item
from orchestrator.concurrency import patience
from orchestrator.concurrency.window import START, EngineWindow
from orchestrator.console import say
from orchestrator.endpoints.discovery import Unreachable, check, is_this_host, locate
from orchestrator.endpoints.endpoint import Endpoint, EndpointSpec
from orchestrator.errors import EndpointDown, JudgeUnavailable
from orchestrator.events import Events
from orchestrator.files import write_atomic
from orchestrator.planning.gpus import named_kinds
from orchestrator.planning.on_cluster import settle_both, settle_layout
from orchestrator.progress import Bars, bars
from orchestrator.ray_cluster.connect import Cluster, connect
from orchestrator.ray_cluster.find import find_path
from orchestrator.records.pulse import SILENT
from orchestrator.records.types import Stage, digest
from orchestrator.records.writer import Judges, Progress
from orchestrator.records.writer_client import call, open_writer
from orchestrator.serving import deploy
from orchestrator.serving.identity import Served
from orchestrator.serving.options import max_num_seqs
from orchestrator.serving.spec import ServingSpec
from orchestrator.spec import Provider, to_yaml
from orchestrator.stages.predict import PredictConfig, predict
from orchestrator.stages.stage import Pick, RowStore, configure_ray_data
from orchestrator.steering.controller import steered, stop_all
from orchestrator.steering.liveness import Liveness

PLAN_CHUNK = 2000  # items whose state is asked for in one call to the writer
DEFAULT_WINDOW = 64  # requests in flight at a server that does not say what it can take
API_WINDOW = 512  # requests, the most at an API that limits them by 429
PROGRESS_INTERVAL = 0.5
# Seconds without a response until judging is given up: each request under way has missed its deadline by then.
JUDGE_SPEECHLESS = JUDGE_TIMEOUT + 60.0


@dataclass
class Run:
    """An open run folder on a connected cluster."""

    spec: ExamSpec
    items: list[Item]
    requests: Requests
    cluster: Cluster
    folder: Path
    writer: ActorHandle
    events: Events
    session: provenance.Session | None = None  # who answers, under what; its line in specs.jsonl
    todo: list[Pick] = field(default_factory=list)  # what must be asked
    deployed: dict[Endpoint, ServingSpec] = field(default_factory=dict)  # and with what sizes
    shared_out: tuple[ServingSpec, ServingSpec] | None = None  # of model and judge, where both are to share the GPUs

    @property
    def n_wanted(self) -> int:
        return len(self.items) * self.spec.samples

    def node_for(self, endpoint: Endpoint | None) -> str | None:
        """This host, if the endpoint's address means just that."""
        local = endpoint and not endpoint.serve_app and is_this_host(endpoint.base_url)
        return str(ray.get_runtime_context().get_node_id()) if local else None


@contextmanager
def open_run(spec: ExamSpec, items: list[Item], served: Served | None = None) -> Iterator[Run]:
    """Connect to the cluster, lock the run folder, settle what is still to ask; give all back at the end.

    `served` is who answers, where that is known and no server need be asked.
    """
    ship(find_task(spec.task))
    with connect() as cluster:
        configure_ray_data()
        folder = cluster.run_folder(spec.run_name)
        with open_writer(folder, cluster.run_mode) as writer:
            served = served or provenance.who_answers("served", spec, folder, cluster.gpus, say)
            judge = provenance.who_answers("judge", spec, folder, cluster.gpus, say)
            patience.attend(lambda: write_atomic(folder / "spec.yaml", to_yaml(spec)), f"the run folder {folder}")
            run = Run(spec, items, Requests(spec, served), cluster, folder, writer, Events(folder))
            wait = True
            try:
                assert served  # only the rule has no model
                _begin(run, served, judge)
                yield run
            except KeyboardInterrupt:
                wait = False
                stop_all()
                raise
            finally:
                for endpoint in run.deployed:
                    deploy.release(endpoint, cluster, wait=wait)


def _begin(run: Run, served: Served, judge: Served | None) -> None:
    """Plan the answers that `served` gives; a second call takes the place of the first."""
    before = next(reversed(list(provenance.sessions(run.folder))), None)
    kinds = named_kinds(key for node in ray.nodes() if node["Alive"] for key in node["Resources"])
    gpu = (", ".join(sorted(kinds)) or None) if run.cluster.gpus else "cpu"
    run.requests, run.todo = Requests(run.spec, served), []
    begin = partial(provenance.begin_session, run.folder, run.spec, run.items, served=served, judge=judge, gpu=gpu)
    run.session = patience.attend(begin, f"the run folder {run.folder}")
    _plan(run)
    if before and run.todo and (told := provenance.changes(before, run.session)):
        say(f"{run.folder.name}: answers recorded before were given otherwise and do not count: {'; '.join(told)}")


def _plan(run: Run) -> None:
    """Ask the writer, chunk by chunk, which answers are missing."""
    for start in range(0, len(run.items), PLAN_CHUNK):
        chunk = enumerate(run.items[start : start + PLAN_CHUNK], start)
        wanted = [(place, one) for place, item in chunk for one in run.requests.wanted(item)]
        answers = call(run.writer.plan, [one for _, one in wanted])
        run.todo += [Pick(place, one.sample) for (place, one), ask in zip(wanted, answers, strict=True) if ask]
    recorded, to_ask = run.n_wanted - len(run.todo), len(run.todo)
    run.events.add("planned", wanted=run.n_wanted, recorded=recorded, to_ask=to_ask)
    say(f"{run.folder}: {run.n_wanted} answers wanted, {recorded} recorded already, {to_ask} to ask")


def find_judge(run: Run) -> JudgeConfig | None:
    """Settle the judge and have it give one verdict; None if nothing is left to judge.

    Raises JudgeUnavailable before any GPU works for the run.
    """
    assert run.session
    task, identity = find_task(run.spec.task), judge_identity(run.spec, run.session["judge"])
    wanted = judge_endpoint_spec(run.spec)
    # The rule costs nothing: what an earlier version of it judged is judged again.
    judges = Judges(digest(identity), digest(earlier_identity(identity)) if wanted else None)
    if not call(run.writer.count_to_judge, judges):
        return None
    made = provenance.provenance(run.session, "judge", {"sent": identity["sampling"], "defaults": None})
    if wanted is None:
        return JudgeConfig(run.writer, task, identity, judges, made)
    named = wanted.endpoint()
    endpoint = _share_key(run, named and locate(named)) or _deploy(run, wanted, run.spec.judge_serving)
    asked = preflight(run.spec, endpoint)
    run.events.add("judge_ready", model=asked.endpoint.model, base_url=asked.endpoint.base_url)
    return JudgeConfig(run.writer, task, identity, judges, made, asked)


def find_endpoint(run: Run) -> Endpoint:
    """The model's endpoint: the one that is named and answers, or a deployment on Ray Serve."""
    spec = run.spec
    wanted = model_endpoint_spec(spec)
    endpoint = _share_key(run, wanted.endpoint())
    if endpoint is None:
        return _deploy(run, wanted, spec.serving)
    try:
        return check(endpoint, wanted.role)
    except Unreachable:
        if spec.provider != "vllm" or not is_this_host(endpoint.base_url):
            raise
        say(f"nothing listens at {endpoint.base_url}: deploying {spec.model} on Ray Serve instead")
        assert run.session
        if run.session["served"] and run.session["served"]["server"]:  # planned with the server that was there before
            served = provenance.deployed(spec.model, spec.serving, run.cluster.gpus, say)
            _begin(run, served, run.session["judge"])
        return _deploy(run, wanted, spec.serving)


def _share_key(run: Run, endpoint: Endpoint | None) -> Endpoint | None:
    """Let the actors have the endpoint's key as this process knows it; they read it from the writer's memory."""
    if endpoint and endpoint.key_name and (key := endpoint.api_key()):
        call(run.writer.keep_secrets, {endpoint.key_name: key})
    return endpoint


def _deploy(run: Run, wanted: EndpointSpec, options: ServingSpec) -> Endpoint:
    started, model = time.monotonic(), find_path(wanted.model)
    settled = _settle(run, model, wanted, options)
    endpoint = deploy.deploy(model, settled, run.cluster, progress=say)
    run.deployed[endpoint] = settled
    run.events.add(
        "endpoint_ready",
        model=wanted.model,
        base_url=endpoint.base_url,
        seconds=round(time.monotonic() - started, 1),
        tensor_parallel_size=settled.tensor_parallel_size,
        pipeline_parallel_size=settled.pipeline_parallel_size,
        replicas=settled.replicas,
    )
    return endpoint


def _settle(run: Run, model: str, wanted: EndpointSpec, options: ServingSpec) -> ServingSpec:
    """The sizes that `parallelism: auto` means here; model and judge have GPUs of their own if both are deployed."""
    spec, judging, answers = run.spec, judge_endpoint_spec(run.spec), wanted.role == "model"
    budget = _budget(run)
    if judging is None or judging.endpoint() or spec.provider != "vllm" or spec.base_url:
        return settle_layout(model, options, run.cluster, progress=say, output_tokens=budget if answers else None)
    if judging.model == spec.model and spec.judge_serving == spec.serving:  # one deployment does both
        return settle_layout(model, options, run.cluster, progress=say, output_tokens=budget)
    if spec.serving.parallelism == spec.judge_serving.parallelism == "auto":
        judge = find_path(judging.model), spec.judge_serving
        run.shared_out = run.shared_out or settle_both(
            find_path(spec.model), spec.serving, *judge, run.cluster, progress=say, output_tokens=budget
        )
        return run.shared_out[0 if answers else 1]
    if answers:
        return settle_layout(model, options, run.cluster, progress=say, output_tokens=budget, beside=spec.judge_serving)
    return settle_layout(model, options, run.cluster, progress=say, beside=spec.serving)


def _budget(run: Run) -> int | None:
    """Tokens that an answer may have; None: what the context has left."""
    budget = run.spec.max_completion_tokens
    return None if budget == "auto" else budget


def ask_and_judge(run: Run, endpoint: Endpoint | None, judging: JudgeConfig | None) -> None:
    """Run the stages side by side, judging what arrives. A judge that fails does not stop the predictions."""
    if endpoint is None and judging is None:
        return
    store = RowStore(map(row_of, run.items))
    stages: dict[str, Callable[[], object]] = {}
    threads: list[StageThread] = []
    if endpoint is not None:
        alone = judging is None or judging.asked is None or judging.asked.endpoint != endpoint
        last = nothing if alone else lambda: threads[-1].join()  # the judge's
        stages["predict"] = lambda: _predict(run, endpoint, store, _budget(run) if alone else None, last)
    if judging is not None:
        stages["judge"] = lambda: _judge(run, judging, store, beside=endpoint)
    totals = {"predict": len(run.todo), "judge": run.n_wanted}
    threads += [StageThread(name, work) for name, work in stages.items()]
    watch = _watch(run, endpoint, judging)
    with bars({name: totals[name] for name in stages}) as drawn:
        for thread in threads:
            thread.start()
        while alive := [thread for thread in threads if not thread.is_over()]:
            alive[0].join(PROGRESS_INTERVAL)
            for stage in watch.poll(_show(run, drawn, stages)):
                next(thread for thread in threads if thread.name == stage).give_up(_speechless(run))
            tell_failures(threads)
        _show(run, drawn, stages)
    for thread in threads:
        if thread.error:
            run.events.add("stage_failed", stage=thread.name, error=str(thread.error))
            raise thread.error


def _watch(run: Run, endpoint: Endpoint | None, judging: JudgeConfig | None) -> Liveness:
    judge = judging.asked.endpoint if judging and judging.asked else None
    asked: dict[Stage, Endpoint | None] = {"predict": endpoint, "judge": judge}
    elsewhere: list[Stage] = [stage for stage, one in asked.items() if one and not one.serve_app]
    endless: dict[Stage, float] = {"judge": JUDGE_SPEECHLESS} if "judge" in elsewhere else {}
    return Liveness(run.writer, run.events.add, elsewhere=elsewhere, endless=endless)


def _speechless(run: Run) -> JudgeUnavailable:
    return JudgeUnavailable(
        f"judge={run.spec.judge} has answered nothing for {JUDGE_SPEECHLESS:.0f} s. What it has not judged is judged "
        "when you run the same command again"
    )


def nothing() -> None:
    """Wait for no stage."""


def _predict(
    run: Run, endpoint: Endpoint, store: RowStore, budget: int | None, last: Callable[[], None] = nothing
) -> None:
    """`budget`: the tokens that everything which this endpoint is asked may have, if that is known.

    `last` waits for others that ask it: its engines are watched until then.
    """
    spec = run.spec
    start, most = window(run, endpoint, spec.provider, spec.num_workers)
    config = PredictConfig(
        writer=run.writer,
        build=run.requests.question,
        endpoint=endpoint,
        options=request_options(spec),
        request_timeout=spec.request_timeout,
        start=start,
        most=most,
        provenance=provenance.provenance(run.session, "served", run.session["sampling"]) if run.session else None,
    )
    run.events.add("predicting", to_ask=len(run.todo), window=start, most=most)
    try:
        with _steering(run, "predict", endpoint, most, budget):
            predict(config, store, run.todo, node=run.node_for(endpoint))
            call(run.writer.abandon)  # the judge continues with what there is
            last()
    finally:
        call(run.writer.abandon)


def _steering(
    run: Run, stage: Stage, endpoint: Endpoint, most: int, budget: int | None = None
) -> AbstractContextManager[None]:
    """At our own engines the window follows what they report; for others each client watches for 429."""
    settled = run.deployed.get(endpoint)
    if settled is None or endpoint.serve_app is None:
        return nullcontext()
    seats = max_num_seqs(settled, run.cluster.gpus)
    controller = EngineWindow(engines=settled.replicas, seats=seats, most=most, budget=budget)
    tell, note = partial(run.writer.set_window.remote, stage), partial(run.events.add, stage=stage)
    return steered(endpoint.serve_app, controller, tell=tell, note=note)


def _judge(run: Run, config: JudgeConfig, store: RowStore, *, beside: Endpoint | None) -> None:
    """`beside` is the predictions' endpoint. Where it is the judge's too, what steers those sees both."""
    spec, node = run.spec, None
    steering: AbstractContextManager[None] = nullcontext()
    if asked := config.asked:
        start, most = window(run, asked.endpoint, asked.provider, spec.judge_num_workers)
        shared = asked.endpoint == beside  # with the predictions, whose window nothing else gets
        config = replace(config, start=most if shared else start, most=most)
        node = run.node_for(asked.endpoint)
        if not shared:
            steering = _steering(run, "judge", asked.endpoint, most)
    everything = (Pick(place, sample) for place in range(len(run.items)) for sample in range(spec.samples))
    try:
        with steering:
            judge(config, store, everything, total=run.n_wanted, node=node)
    except EndpointDown as error:
        raise JudgeUnavailable(f"judge={spec.judge}: {error}") from error


def window(run: Run, endpoint: Endpoint, provider: Provider, given: int | Literal["auto"]) -> tuple[int, int]:
    """Requests in flight, at first and at most: as given, else what our deployment or the provider can take."""
    if given != "auto":
        return given, given
    if settled := run.deployed.get(endpoint):
        return deploy.opening(settled, run.cluster.gpus), deploy.capacity(settled, run.cluster.gpus)
    return (START, API_WINDOW) if provider in ("openai", "deepinfra") else (DEFAULT_WINDOW, DEFAULT_WINDOW)


def _show(run: Run, drawn: Bars, stages: dict[str, Callable[[], object]]) -> Progress:
    progress: Progress = call(run.writer.progress, SILENT)
    if "predict" in stages:
        drawn.update("predict", progress.predicted, _counts(progress.by_status))
    if "judge" in stages:
        drawn.update("judge", progress.judged + progress.needless, _counts(progress.by_verdict))
    drawn.tick()
    return progress


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
