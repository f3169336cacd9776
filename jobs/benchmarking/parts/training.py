"""SFT at 1, 2, 4, … GPUs by `jobs.sft` itself, a job for each number, with as much work for every GPU.

Each is a process of its own, as a user would start it, and takes its workers from the cluster that this job is
connected to: the lease is shared, and this job holds neither a GPU nor the lock of a training's folder.
"""

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from cluster.files import REPOSITORY
from cluster.probes.gpus import read_gpus
from jobs.benchmarking.parts.flops import flops_per_token, peak_flops
from jobs.benchmarking.parts.models import BenchModel, find_model
from jobs.benchmarking.parts.nccl import profile
from jobs.benchmarking.parts.processes import stopped
from jobs.benchmarking.parts.rows import write_rows
from jobs.benchmarking.results import Device, Train, Training
from jobs.benchmarking.spec import BenchSpec, TrainSpec
from orchestrator.console import say
from orchestrator.errors import KosenError, SpecError, TrainingFailed
from orchestrator.planning.shape import Shape, read_shape
from orchestrator.ray_cluster.connect import Cluster
from orchestrator.serving.options import read_config
from orchestrator.training.config.common import local_or_hub
from orchestrator.training.config.placement import NodeResources, connected_nodes
from orchestrator.training.folder import TrainingFolder, read_journal
from orchestrator.training.trainer import sft_worker

MODELS: dict[Device, str] = {"cuda": "7b", "cpu": "tiny"}
LOG = "sft_training.log"  # the seed's name
WARM_UP = 2  # steps, in which code is compiled and memory is found
MICRO_BATCHES = 4  # micro batches in a step of a worker
LENGTH, LR = 2048, 1e-5  # of models without a preset
CPU_WORKERS = 2  # of a node without GPUs: enough to see that they share the work
MOST_ROWS = 1024  # rows at once; a GPU that takes more is not searched further
SILENCE = 1800  # seconds without a sign of life from a trainer
RUN_SECONDS = 7200.0  # one training, from its start to its end
STOP_SECONDS = 60.0  # seconds for a job to stop; its trainer ends with it in any case
NAME_SECONDS = 60.0
OUT_OF_MEMORY = ("OutOfMemoryError", "CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
LORA = ["lora.rank=16", "lora.alpha=32", "lora.target_modules=[q_proj,k_proj,v_proj,o_proj]"]
OFFLOAD = {  # and a GPU that has no room for the weights cannot keep them from one micro batch to the next
    "engine.offload_policy": "true",
    "engine.reshard_after_forward": "true",
    "engine.use_no_sync_for_gradient_accumulation": "false",
}

Step = dict[str, Any]  # a line of the journal


class OutOfMemory(TrainingFailed):
    """The GPUs have no room for this many rows at once."""


def measure(spec: BenchSpec, folder: Path, cluster: Cluster) -> None:
    """Write train.json after each number of workers, then search for the largest micro batch.

    A number of workers whose GPUs are too small is left out, and one that is in train.json already is not measured
    again. Raises SpecError, ClusterNotReady and TrainingFailed.
    """
    device = spec.settle_device(cluster.gpus)
    model = find_model(spec.train.model or MODELS[device], folder)
    trainer = _Trainer(spec.train, model, device, folder.absolute(), _environment(spec, cluster))
    config = read_config(model.source, "MFU", "give train.model=7b, which is a shape and needs no download")
    shape = read_shape(config.to_dict(), model.name)
    result = Train(
        model=model.name,
        parameters=shape.parameters.total,
        data=spec.train.data,
        length=trainer.length,
        lora=spec.train.lora,
        runs=[],
    )
    peak = peak_flops(_gpu_name() or "") if device == "cuda" else None
    earlier = Train.earlier(folder)
    known = {run.workers: run for run in earlier.runs} if earlier else {}
    problem: OutOfMemory | None = None
    for workers in _workers(spec.train, device):
        if workers in known:
            say(f"train: {_count(workers)}: measured already")
            result.runs.append(known[workers])
            continue
        try:
            run = trainer.train(workers, trainer.rows, trainer.micro_batch_size, spec.train.steps)
        except OutOfMemory as error:
            problem = error
            say(f"train: {_count(workers)} too small: {error}")
            continue
        result.runs.append(figures(run, workers, trainer.rows, shape, peak, lora=spec.train.lora))
        result.write(folder)
        say(f"train: {_sentence(result.runs[-1])}")
    if problem and not result.runs:
        raise TrainingFailed(
            f"{problem}. No number of workers could train {result.model}: give train.micro_batch_size=1, "
            "train.lora=true or a smaller train.model="
        )
    if device == "cuda" and spec.train.search:
        _search(trainer, result, folder)


def _environment(spec: BenchSpec, cluster: Cluster) -> dict[str, str]:
    return {**os.environ, **profile(spec), "RAY_ADDRESS": cluster.ray_address}


def _workers(spec: TrainSpec, device: Device) -> Sequence[int]:
    return worker_counts(connected_nodes(), device) if spec.workers == "auto" else spec.workers


def worker_counts(nodes: Sequence[NodeResources], device: Device) -> list[int]:
    """1, 2, 4, … and all of the largest node, then all of 2, 4, … and of all nodes, as many workers on each."""
    cpus = [min(CPU_WORKERS, int(node.cpus)) for node in nodes]
    slots = sorted([node.gpus for node in nodes] if device == "cuda" else cpus, reverse=True)
    one_node = list(_doubled(slots[0])) if slots else []
    return one_node + [n * slots[n - 1] for n in _doubled(len(slots)) if n > 1 and n * slots[n - 1] > slots[0]]


def _doubled(most: int) -> Iterator[int]:
    """1, 2, 4, … and `most`."""
    number = 1
    while number < most:
        yield number
        number *= 2
    if most:
        yield most


def _gpu_name() -> str | None:
    """As the driver of some node names its first GPU; None where it says nothing."""
    address = next(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU"))
    look = ray.remote(num_cpus=0, resources={f"node:{address}": 0.001})(read_gpus)  # a name is worth no GPU
    try:
        gpus = ray.get(look.remote(), timeout=NAME_SECONDS)
    except ray.exceptions.GetTimeoutError:
        return None
    return str(gpus.found[0].name) if gpus and gpus.found else None


@dataclass(frozen=True)
class _Trainer:
    """One model's trainings, each in a folder of its own below the results."""

    spec: TrainSpec
    model: BenchModel
    device: Device
    results: Path
    environment: dict[str, str]  # of jobs.sft

    @property
    def length(self) -> int:
        return self.model.preset.length if self.model.preset else LENGTH

    @property
    def micro_batch_size(self) -> int:
        return self.spec.micro_batch_size or (self.model.preset.micro_batch_size if self.model.preset else 1)

    @property
    def rows(self) -> int:
        """Of a worker in a step."""
        return self.spec.rows_per_worker or MICRO_BATCHES * self.micro_batch_size

    def train(self, workers: int, rows: int, micro_batch_size: int, steps: int) -> TrainingFolder:
        """The folder of a training of WARM_UP and `steps` steps, `rows` for each worker in each.

        What it wrote is there but for its data and checkpoints. Raises OutOfMemory, SpecError and TrainingFailed.
        """
        run = TrainingFolder(self.results / "training" / f"{workers}-workers-{rows}-rows-{micro_batch_size}-at-once")
        shutil.rmtree(run.path, ignore_errors=True)  # it would resume that one
        run.path.mkdir(parents=True)
        made = run.path / "rows.jsonl"
        batch, steps = workers * rows, WARM_UP + steps
        try:
            if self.spec.data is None:
                write_rows(made, batch * steps, self.length, self.model.source)
            say(f"train: {_count(workers)}, {steps} steps of {batch} rows, {micro_batch_size} at once, in {run.path}")
            keys = [f"run={run.path}", f"workers={workers}", f"batch_size={batch}", f"max_steps={steps}"]
            memory = [f"micro_batch_size={micro_batch_size}", f"max_tokens_per_gpu={micro_batch_size * self.length}"]
            self._run(run, [*self._keys(made, steps), *keys, *memory])
        finally:
            made.unlink(missing_ok=True)
            shutil.rmtree(run.data, ignore_errors=True)
            shutil.rmtree(run.checkpoints, ignore_errors=True)
            _keep_log(self.results / LOG, run, workers)
        return run

    def _keys(self, made: Path, steps: int) -> list[str]:
        """What all trainings of this model have in common. Its checkpoint holds no weights."""
        preset = self.model.preset
        verl = {"checkpoint.save_contents": "[extra]"}
        if self.model.random_weights:
            verl["model.external_lib"] = "jobs.benchmarking.parts.random_weights"
        if preset and preset.offload:
            verl |= OFFLOAD
        return [
            f"model={self.model.source}",
            f"train={local_or_hub(self.spec.data) if self.spec.data else made}",
            f"device={self.device}",
            f"epochs={steps}",  # where the data has fewer rows than the steps take
            f"max_length={self.length}",
            f"lr={preset.lr if preset else LR}",
            f"save_every={steps}",
            f"timeout={SILENCE}",
            "max_failures=1",
            *(LORA if self.spec.lora else []),
            *(f"verl.{key}={value}" for key, value in verl.items()),
        ]

    def _run(self, run: TrainingFolder, keys: Sequence[str]) -> None:
        log = run.path / "job.log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "jobs.sft", *keys]
            job = subprocess.Popen(command, cwd=REPOSITORY, env=self.environment, stdout=out, stderr=subprocess.STDOUT)
        with stopped(job, STOP_SECONDS):
            try:
                code = job.wait(RUN_SECONDS)
            except subprocess.TimeoutExpired:
                raise TrainingFailed(f"the training had not ended after {RUN_SECONDS:.0f} s; see {log}") from None
        if code:
            raise failure_of(code, run, log)


def failure_of(code: int, run: TrainingFolder, log: Path) -> KosenError:
    """Why `jobs.sft` ended with this exit code, by its trainer's report or by the end of its log."""
    found = run.failure()
    if found and any(text in found.message for text in OUT_OF_MEMORY):
        return OutOfMemory(found.message)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)
    kind = SpecError if code == SpecError.exit_code else TrainingFailed
    return kind(said or f"jobs.sft ended with exit code {code}; see {log}")


def _steps(run: TrainingFolder) -> list[Step]:
    return [line for line in read_journal(run) if line["event"] == "step" and "seconds" in line["metrics"]]


def _keep_log(path: Path, run: TrainingFolder, workers: int) -> None:
    """The steps of all trainings in one file, a line each."""
    with path.open("a", encoding="utf-8") as file:
        for step in _steps(run):
            of = step["metrics"]
            figures = f"loss={of['train/loss']:.4f} seconds={of['seconds']:.3f} tokens/s={of['tokens_per_second']:.0f}"
            file.write(f"{step['time']} {run.path.name} workers={workers} step={step['step']} {figures}\n")


def figures(
    run: TrainingFolder, workers: int, rows: int, shape: Shape, peak: float | None, *, lora: bool = False
) -> Training:
    """What a training's journal says after its warm-up; the medians of its steps. `peak`: FLOP/s of a GPU."""
    config, _ = sft_worker.read_config(run)
    lines = _steps(run)
    steps = [line["metrics"] for line in lines[WARM_UP:]]
    rate = statistics.median(step["tokens_per_second"] for step in steps)
    length = sum(step["train/global_tokens"] for step in steps) / (len(steps) * workers * rows)
    memory = max(step["perf/max_memory_allocated_gb"] for step in steps) * 2**30  # verl's GB
    return Training(
        workers=workers,
        nodes=config.trainer.nnodes,
        rows_per_worker=rows,
        steps=len(steps),
        seconds=statistics.median(step["seconds"] for step in steps),
        tokens_per_second=rate,
        mfu=rate * flops_per_token(shape, length, lora=lora) / (workers * peak) if peak else None,
        memory=round(memory) if config.trainer.device == "cuda" else None,
        started_at=lines[WARM_UP - 1]["time"],  # the last step that warms up ends where the timed ones begin
        ended_at=lines[-1]["time"],
    )


def _search(trainer: _Trainer, result: Train, folder: Path) -> None:
    """A search that fails for another reason than memory leaves the rest of the results as it is."""

    def fits(rows: int) -> bool:
        try:
            trainer.train(1, rows, rows, steps=0)  # the second step is the first that finds an optimizer's state
        except OutOfMemory:
            return False
        return True

    fitted = trainer.micro_batch_size if any(run.workers == 1 for run in result.runs) else 0
    try:
        found = largest_that_fits(fits, fitted)
    except KosenError as error:
        say(f"warning: the largest micro batch was not found: {error}")
        return
    result.model_copy(update={"largest_micro_batch": found}).write(folder)
    say(f"train: at most {found} rows of {trainer.length} tokens at once fit one GPU")


def largest_that_fits(fits: Callable[[int], bool], fitted: int = 0, most: int = MOST_ROWS) -> int:
    """The largest number up to `most` that fits, where all smaller ones fit: doubled until one does not, then bisected.

    `fitted` is known to fit.
    """
    good, bad = fitted, 2 * fitted or 1
    while bad <= most and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, most + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def _count(workers: int) -> str:
    return f"{workers} worker{'' if workers == 1 else 's'}"


def _sentence(run: Training) -> str:
    mfu = "" if run.mfu is None else f", MFU {run.mfu:.1%}"
    return f"{_count(run.workers)}, {run.seconds:.2f} s a step, {run.tokens_per_second:,.0f} tokens/s{mfu}"
