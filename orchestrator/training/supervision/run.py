"""One training, from its command line to its result: what fine-tuning and reinforcement learning have in common."""

import json
import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig, OmegaConf

from cluster.files import expanded
from cluster.state import ClusterState
from orchestrator import tracking
from orchestrator.console import say
from orchestrator.data.source import FORMATS
from orchestrator.errors import COMPLETE, ClusterNotReady, Parser, SpecError
from orchestrator.ray_cluster.find import find_path, run_root
from orchestrator.spec import WandbSpec, load_spec, to_yaml
from orchestrator.training.config import common, verl_config
from orchestrator.training.config.common import Keys
from orchestrator.training.config.placement import (
    Placement,
    assume,
    check_division,
    connected_nodes,
    free,
    known_nodes,
    lacking,
    of_state,
    place,
)
from orchestrator.training.data import tokens
from orchestrator.training.folder import TrainingFolder, figures, loss_curve
from orchestrator.training.spec import TrainingSpec

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
# What a checkpoint is bound to: verl saves a file a process, with the names of that model's weights.
BOUND = {
    "sft": ("model.path", "model.lora_rank"),
    "ppo": ("actor_rollout_ref.model.path", "actor_rollout_ref.model.lora_rank", "algorithm.adv_estimator"),
}
# verl's keys that the rest of the run goes by, and the key of ours that decides them.
OURS = {
    "trainer.nnodes": "workers",
    "trainer.n_gpus_per_node": "workers",
    "trainer.device": "device",
    "trainer.default_local_dir": "run",
    "trainer.resume_mode": "run",
    "trainer.v1.trainer_mode": "algorithm",
    "data.train_files": "train",
    "data.val_files": "val",
}
# What decides how a training runs and not what it makes, and the paths of a run that was moved as a whole.
NO_MATTER = (
    *("trainer.", "data.train_files", "data.val_files", "data.num_workers", "data.dataloader_num_workers"),
    *("engine.reshard_after_forward", "engine.use_no_sync_for_gradient_accumulation"),
)
FIGURES = {"sft": ("loss", "train/loss"), "ppo": ("score", "critic/score/mean")}

S = TypeVar("S", bound=TrainingSpec)


@dataclass(frozen=True)
class Source:
    """A data set, and the Parquet file that it becomes."""

    name: str
    split: str
    out: Path

    @property
    def path(self) -> str:
        return find_path(self.name)


@dataclass(frozen=True)
class Recipe(Generic[S]):
    """What the two trainings do in their own ways."""

    kind: verl_config.Kind
    purpose: str
    schema: type[S]
    driver: str  # the module that the supervisor starts
    keys: Callable[[S, Placement, TrainingFolder], Keys]
    reasons: Callable[[S, Placement], list[str]]
    # The rows to a file, or the first of them checked; a report with `kept`, `rows` and `sentence()`.
    convert: Callable[[S, Source, Path | None], Any]
    name: Callable[[S], str]  # of the run folder


def main(recipe: Recipe[S], argv: Sequence[str] | None) -> int:
    """Read the command line, check all that can be checked, train, and print what came of it."""
    parser = Parser(prog=f"python -m jobs.{recipe.kind}", description=recipe.purpose)
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"the spec: conf/{recipe.kind}-gsm8k.yaml is one")
    parser.add_argument("--dry-run", action="store_true", help="check everything, show what would be done, do nothing")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the spec to change")
    args = parser.parse_intermixed_args(argv)
    spec = load_spec(recipe.schema, args.config, args.overrides)
    if args.dry_run:
        return _dry_run(recipe, spec)
    result = train(recipe, spec)
    print(json.dumps(result, indent=2) if args.json else _table(result))
    return COMPLETE


def train(recipe: Recipe[S], spec: S) -> dict[str, Any]:
    """Run a training to its end; the figures of its result.

    Raises SpecError and ClusterNotReady before any GPU works for it, and what the supervisor raises.
    """
    from orchestrator.files import write_atomic
    from orchestrator.ray_cluster.connect import connect  # Ray, which a wrong spec need not wait for
    from orchestrator.records.lock import Owner, RunLock
    from orchestrator.training.supervision.supervisor import supervise

    _check_early(recipe, spec)
    with connect() as cluster:
        folder = TrainingFolder(cluster.run_folder(recipe.name(spec)))
        placement, missing = _place(spec, folder, cluster.state)
        lock = RunLock(folder.path, Owner(socket.gethostname(), os.getpid()), mode=cluster.run_mode)
        try:
            steps = _prepare(recipe, spec, folder)
            config = _resolve(recipe, spec, placement, folder, {"trainer.total_training_steps": steps})
            _check_resumable(recipe.kind, folder, config)
            _check_finished(folder, config)
            write_atomic(folder.path / "spec.yaml", to_yaml(spec))
            verl_config.write(folder.path, config, {"keep_checkpoints": spec.keep_checkpoints})
            say(f"{folder.path}: {placement.describe()}")
            if not missing() and not free(placement):
                say("warning: other jobs use the cluster now; the training waits until they have ended")
            _send_rest(folder, spec.wandb)
            result = supervise(
                folder,
                recipe.driver,
                timeout=spec.timeout,
                max_failures=spec.max_failures,
                environment={"RAY_ADDRESS": cluster.ray_address, **tracking.continued(folder.path, spec.wandb)},
                missing=missing,
            )
        finally:
            lock.release()
            tracking.remind(folder.path)
    name, metric = FIGURES[recipe.kind]
    curve = loss_curve(folder, metric)
    first = {f"first_{name}": curve[min(curve)] if curve else None}
    return {"run": str(folder.path), **first, **asdict(result), "next": f"python -m jobs.merge run={recipe.name(spec)}"}


def _check_early(recipe: Recipe[S], spec: S) -> None:
    """What can be wrong without asking the cluster, before one is started or joined."""
    for source in _sources(spec, TrainingFolder(run_root())):
        _look(source, needed=True)
    nodes = known_nodes()
    if nodes is None and "RAY_ADDRESS" in os.environ:
        return  # a cluster that we know nothing of yet
    placement = place(spec, nodes) if nodes else assume(spec)
    _resolve(recipe, spec, placement, TrainingFolder(run_root() / recipe.name(spec)))


def _place(
    spec: TrainingSpec, folder: TrainingFolder, state: ClusterState | None
) -> tuple[Placement, Callable[[], str | None]]:
    """Where the training goes, and the question what the cluster lacks for that.

    A training that runs while the cluster is without some of its nodes keeps its placement: they may return, and
    its checkpoints are bound to as many processes. Raises SpecError and ClusterNotReady.
    """
    nodes = before = connected_nodes()
    earlier = None
    if state and len(nodes) < state.expected_nodes:
        before, earlier = of_state(state), _earlier_placement(spec, folder)
    placement = earlier or place(spec, nodes)
    return placement, lambda: lacking(spec, placement, connected_nodes(), before)


def _earlier_placement(spec: TrainingSpec, folder: TrainingFolder) -> Placement | None:
    """That of the checkpoint to resume from, unless the spec asks for another by now."""
    if (found := _checkpoint(folder)) is None:
        return None
    trainer = found[1].trainer
    placement = Placement(trainer.device, trainer.nnodes, trainer.n_gpus_per_node, "as the checkpoint has it")
    same = spec.workers in ("auto", placement.workers) and spec.device in ("auto", placement.device)
    return placement if same else None


def _resolve(
    recipe: Recipe[S], spec: S, placement: Placement, folder: TrainingFolder, more: Keys | None = None
) -> DictConfig:
    """verl's whole configuration. Raises SpecError."""
    check_division(spec, placement)
    keys = recipe.keys(spec, placement, folder)
    config = verl_config.resolve(recipe.kind, keys | (more or {}), spec.verl)
    for key, ours in OURS.items():
        if key in keys and OmegaConf.select(config, key) != keys[key]:
            raise SpecError(f"verl.{key} follows from {ours}= here. Give that in its place")
    return config


def _dry_run(recipe: Recipe[S], spec: S) -> int:
    """Print the spec, verl's keys that are not verl's defaults, the placement and the data; the first rows of files are
    read with the model's template, where it is on this machine. Raises what is wrong."""
    nodes, unfit = known_nodes(), None
    try:
        placement = place(spec, nodes) if nodes else assume(spec)
    except ClusterNotReady as error:
        placement, unfit = assume(spec), error
    folder = TrainingFolder(run_root() / recipe.name(spec))
    config = _resolve(recipe, spec, placement, folder)
    local = common.local_or_hub(spec.model)
    changed = verl_config.differences(recipe.kind, config)
    sources = [(source, _look(source, needed=False)) for source in _sources(spec, folder)]
    lines = [
        to_yaml(spec).rstrip(),
        f"--- verl's {verl_config.ROOTS[recipe.kind]}: {len(changed)} keys that are not its defaults",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in changed.items()),
        "---",
        f"run:       {folder.path}",
        f"placement: {'does not fit' if unfit else placement.describe()}",
        *common.reasons(spec, placement),
        *recipe.reasons(spec, placement),
        *(f"data:      {seen}" for _, seen in sources),
        *(f"rows:      {recipe.convert(spec, source, None).sentence()}" for source, _ in sources if _is_file(source)),
        *([] if tokens.is_here(local) else [f"template:  {spec.model} is not here; it is checked when the job runs"]),
    ]
    print("\n".join(lines))
    if unfit:
        raise unfit
    return COMPLETE


def _is_file(source: Source) -> bool:
    return expanded(source.path).is_file()


def _sources(spec: TrainingSpec, folder: TrainingFolder) -> list[Source]:
    sources = [Source(spec.train, spec.train_split, folder.data / "train.parquet")]
    return sources + ([Source(spec.val, spec.val_split, folder.data / "val.parquet")] if spec.val else [])


def _look(source: Source, *, needed: bool) -> str:
    """A sentence on what is known of a data set before it is read. Raises SpecError for what cannot be one."""
    path = expanded(source.path)
    if path.is_file():
        if path.suffix.lower() not in FORMATS:
            raise SpecError(f"{path} is not a data set that can be read; expected {', '.join(FORMATS)}")
        return f"{path} → {source.out}"
    if path.suffix.lower() in FORMATS or not (path.is_dir() or HUB_NAME.fullmatch(source.name)):
        if needed or not path.suffix:
            raise SpecError(
                f"there is no data set {path} (relative to {Path.cwd()}). Expected a JSON, JSONL, CSV or Parquet file, "
                "or a name on the hub like openai/gsm8k:main"
            )
        return f"{path} is not there yet; it is checked when the job runs"
    return f"{source.name}, {source.split}, of the hub, checked when the job runs → {source.out}"


def _prepare(recipe: Recipe[S], spec: S, folder: TrainingFolder) -> int:
    """Convert the data, unless that is done; the number of steps that it makes. Raises SpecError for too few rows."""
    kept: list[int] = []
    for source in _sources(spec, folder):
        report = recipe.convert(spec, source, source.out)
        say(report.sentence())
        kept.append(report.kept)
        # verl validates an SFT in batches of the same size, and leaves out what fills none.
        if report.kept < spec.batch_size and (recipe.kind == "sft" or len(kept) == 1):
            raise SpecError(
                f"{source.name} has {report.kept} usable rows, fewer than batch_size={spec.batch_size}. Give a smaller "
                "batch_size=, or more rows"
            )
    steps = kept[0] // spec.batch_size * spec.epochs
    return min(spec.max_steps or steps, steps)


def _check_resumable(kind: verl_config.Kind, folder: TrainingFolder, config: DictConfig) -> None:
    """A checkpoint of another model or of another number of processes would be refused by verl, attempt by attempt."""
    if (found := _checkpoint(folder)) is None:
        return
    step, before = found
    pairs = {key: (OmegaConf.select(before, key), OmegaConf.select(config, key)) for key in BOUND[kind]}
    pairs["workers"] = (_processes(before), _processes(config))
    for key, (was, now) in pairs.items():
        if was != now:
            raise SpecError(
                f"{folder.path} has a checkpoint of step {step} of another training: {key} was {was}, now it is {now}. "
                "Give another run=, or what it was before"
            )


def _checkpoint(folder: TrainingFolder) -> tuple[int, Any] | None:
    """The step of the newest good checkpoint, and the configuration that it is of."""
    from orchestrator.training.checkpoints.checkpoints import newest_good

    step = newest_good(folder.checkpoints)
    return (step, verl_config.read(folder.verl_config)) if step is not None and folder.verl_config.exists() else None


def _check_finished(folder: TrainingFolder, config: DictConfig) -> None:
    """Of a finished training nothing is left to do: with other settings the same weights would pass for new ones."""
    from orchestrator.training.supervision.outcome import read_mark

    done = read_mark(folder)
    if done is None or config.trainer.total_training_steps > done:
        return  # more steps with other settings are a second stage, which is what the user asked for
    before = verl_config.read(folder.verl_config)
    before.pop("kosen", None)
    changed = {key: pair for key, pair in verl_config.changes(before, config).items() if not key.startswith(NO_MATTER)}
    for key, (was, now) in changed.items():
        raise SpecError(
            f"{folder.path} holds a training that is finished with other settings: {key} was {was}, now it is {now}. "
            "Give another run=, or more steps"
        )


def _send_rest(folder: TrainingFolder, spec: WandbSpec) -> None:
    """A job that was killed when its last step was done has not sent all figures, and no other attempt will."""
    from orchestrator.training.supervision.outcome import finished_step, read_result
    from orchestrator.training.supervision.process import wait_for_earlier

    wait_for_earlier(folder.path)
    if read_result(folder) is None and finished_step(folder) is not None:
        tracking.send_rest(folder.path, spec, figures(folder))


def _processes(config: Any) -> int:
    return int(config.trainer.nnodes * config.trainer.n_gpus_per_node)


def _table(result: dict[str, Any]) -> str:
    """The result for people; what was not measured says so."""
    name = "loss" if "first_loss" in result else "score"
    return "\n".join(
        [
            f"steps       {result['step']} in {result['attempts']} attempts, {result['seconds']:.0f} s",
            f"{name:<11} {_shown(result[f'first_{name}'])} → {_shown(result[name])}",
            f"{f'val {name}':<11} {_shown(result[f'val_{name}'])}",
            f"checkpoint  {result['checkpoint']}",
            f"next        {result['next']}",
        ]
    )


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
