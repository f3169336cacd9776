"""The planner's layout of a model on GPUs against another one: the same requests by our own way, one after the other.

    python benchmarks/layouts.py                                     # Qwen3-32B's shape on all GPUs of the cluster
    python benchmarks/layouts.py --model 70b --gpus 4 --against tensor=2,pipeline=2

Prints a line of JSON for each layout as soon as it is measured, then the ratio; OUT keeps them, the log and the
answers. Weights are random. The engines compile and capture graphs as they do for users; only the warm-up is short.
Seconds go from the first request to the last answer. The prediction is for an endless stream of requests. What is
measured also has an end, when the engines run out of them: by default there are 1.5 times as many requests as the
larger layout holds at once. When the time is over, what the layout at work has answered so far is told, and no ratio.

Where the cluster has no GPU the tiny model is asked twice, on one process of the CPU and without a prediction, which
tries this program.
"""

import argparse
import json
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

BEGAN = time.monotonic()  # the imports below are part of the time

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

import ray  # noqa: E402
from ray.exceptions import RayError  # noqa: E402

from cluster.probes.gpus import read_gpus  # noqa: E402
from jobs.benchmarking.parts.flops import find_named  # noqa: E402
from jobs.benchmarking.parts.models import BenchModel, find_model  # noqa: E402
from jobs.benchmarking.parts.offline import Figures, RequestOrder  # noqa: E402
from jobs.benchmarking.parts.rows import prompts  # noqa: E402
from jobs.benchmarking.parts.serving import (  # noqa: E402
    LOADS,
    WARM_UP_REQUESTS,
    counted_records,
    phase,
    read_records,
    run_ours,
    serving_spec,
)
from orchestrator.console import logged, say  # noqa: E402
from orchestrator.errors import (  # noqa: E402
    COMPLETE,
    INCOMPLETE,
    KosenError,
    Parser,
    SpecError,
    cause_of,
    run_command,
)
from orchestrator.planning.choice import Candidate, Hardware, weigh  # noqa: E402
from orchestrator.planning.gpus import KNOWN  # noqa: E402
from orchestrator.planning.report import as_text  # noqa: E402
from orchestrator.planning.request import Planned, plan_layout, take  # noqa: E402
from orchestrator.ray_cluster.connect import Cluster, connect  # noqa: E402
from orchestrator.serving.options import GPU_MAX_NUM_SEQS, engine_kwargs  # noqa: E402
from orchestrator.serving.spec import ServingSpec  # noqa: E402

NAMES = ("planner", "against")
WAVES = 1.5  # requests for each that the larger layout holds at once: with two of 32B on two H200s it gets late


class Sizes(NamedTuple):
    tensor: int = 1
    pipeline: int = 1

    def __str__(self) -> str:
        return f"tensor={self.tensor},pipeline={self.pipeline}"


class Layout(NamedTuple):
    """`seats`: sequences that a replica decodes at once. `predicted`: output tokens/s, None on CPUs."""

    name: str
    sizes: Sizes
    replicas: int
    seats: int
    predicted: float | None

    @property
    def row(self) -> dict[str, Any]:
        sizes = {"tensor": self.sizes.tensor, "pipeline": self.sizes.pipeline, "replicas": self.replicas}
        return {"layout": self.name, **sizes, "predicted": self.predicted}


@dataclass(frozen=True)
class Trial:
    """What every layout is asked, where, and until when (of time.monotonic)."""

    model: BenchModel
    spec: ServingSpec  # without sizes
    messages: list[Any]
    output_tokens: int
    cluster: Cluster
    out: Path
    deadline: float


def main() -> int:
    args = _parser().parse_args()
    deadline = BEGAN + args.seconds
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, deadline - time.monotonic()))
    args.out.mkdir(parents=True, exist_ok=True)
    with logged(args.out / "layouts.log"):
        try:
            return _compare(args, deadline)
        except KeyboardInterrupt:
            if time.monotonic() < deadline:
                raise
            say(f"the {args.seconds:.0f} s of --seconds are over")
            return INCOMPLETE


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # Ray waits in native code, which knows no other exception of a signal


def _parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, metavar="N", help="default: all of the cluster")
    parser.add_argument("--model", help="a preset, a folder or a name on the hub; default: 32b, on CPUs tiny")
    parser.add_argument("--against", type=_sizes, metavar="tensor=T,pipeline=P", help="default: GPUs / 2, and 2")
    parser.add_argument("--requests", type=int, metavar="R", help=f"default: {WAVES} x what the larger layout holds")
    for name, what in (("prompt", "a prompt, about"), ("output", "an answer, exactly")):
        usual = ", on CPUs ".join(str(getattr(load, f"{name}_tokens")) for load in LOADS.values())
        parser.add_argument(f"--{name}", type=int, metavar="TOKENS", help=f"of {what}; default: {usual}")
    parser.add_argument("--seconds", type=float, default=540, help="for all of it; default: 540")
    out = Path("/tmp/kosen-layouts")
    parser.add_argument("--out", type=_absolute, default=out, help=f"a folder that all nodes see; default: {out}")
    return parser


def _absolute(text: str) -> Path:
    return Path(text).absolute()


def _sizes(text: str) -> Sizes:
    try:
        return Sizes(**{name: int(size) for name, size in (part.split("=") for part in text.split(","))})
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(f"{text!r} does not read like tensor=4,pipeline=2") from None


def _compare(args: argparse.Namespace, deadline: float) -> int:
    """Measure both layouts and print their ratio, null unless both answered everything."""
    with ExitStack() as stack:
        with phase("cluster"):
            cluster = stack.enter_context(connect())
        with phase("plan"):
            trial, layouts = _plan(args, cluster, deadline)
        planner, against = (_measure(trial, layout, len(layouts) - place) for place, layout in enumerate(layouts))
        _tell(trial.out, planner_over_against=planner / against if planner and against else None)
    return COMPLETE if planner and against else INCOMPLETE


def _plan(args: argparse.Namespace, cluster: Cluster, deadline: float) -> tuple[Trial, list[Layout]]:
    load = LOADS["cuda" if cluster.gpus else "cpu"]
    prompt, output = args.prompt or load.prompt_tokens, args.output or load.output_tokens
    model = find_model(args.model or ("32b" if cluster.gpus else "tiny"), args.out)
    spec = serving_spec(model, replace(load, prompt_tokens=prompt, output_tokens=output))
    spec = spec.model_copy(update={"max_num_seqs": None})  # the layouts decide
    if not cluster.gpus:
        sizes = Sizes(), args.against or Sizes()
        layouts = [Layout(name, one, 1, load.max_num_seqs, None) for name, one in zip(NAMES, sizes, strict=True)]
    else:
        planned = plan_layout(model.source, spec, _hardware(args.gpus), prompt_tokens=prompt, output_tokens=output)
        say(as_text(planned))
        layouts = [_layout(name, one) for name, one in zip(NAMES, _candidates(planned, args.against), strict=True)]
    requests = args.requests or int(WAVES * max(layout.replicas * layout.seats for layout in layouts))
    messages = prompts(requests, prompt, model.source)
    return Trial(model, spec, messages, output, cluster, args.out, deadline), layouts


def _hardware(gpus: int | None) -> Hardware:
    """`gpus` of the cluster, each host's as Ray counts them; of the kind that this host's driver names."""
    hosts = [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
    here = read_gpus()
    name = here.found[0].name if here and here.found else ""
    kind = find_named(name)
    if kind is None:
        raise SpecError(f"this host's driver names its GPU {name!r}, expected one of {', '.join(KNOWN)}")
    if gpus and gpus > sum(hosts):
        raise SpecError(f"the cluster has {sum(hosts)} GPUs. Give --gpus up to that")
    left, _ = take(hosts, sum(hosts) - (gpus or sum(hosts)))
    return Hardware(kind, left)


def _candidates(planned: Planned, sizes: Sizes | None) -> tuple[Candidate, Candidate]:
    """The planner's choice and the other. Raises SpecError where they are the same, or the other does not fit."""
    hardware = planned.hardware
    sizes = sizes or Sizes(max(1, hardware.total // 2), 2)
    chosen = planned.plan.chosen
    other = weigh(planned.shape, planned.weights, hardware, planned.demand, sizes.tensor, sizes.pipeline)
    if other.tokens_per_second is None:
        raise SpecError(f"{sizes} on {hardware.total} GPUs: {other.reason}. Give another --against")
    if (chosen.tensor_parallel_size, chosen.pipeline_parallel_size) == sizes:
        raise SpecError(f"the planner itself chooses {sizes}. Give another --against")
    return chosen, other


def _layout(name: str, candidate: Candidate) -> Layout:
    """With the seats that `parallelism: auto` gives."""
    sizes = Sizes(candidate.tensor_parallel_size, candidate.pipeline_parallel_size)
    seats = max(candidate.sequences, GPU_MAX_NUM_SEQS)
    return Layout(name, sizes, candidate.replicas, seats, candidate.tokens_per_second)


def _measure(trial: Trial, layout: Layout, left: int) -> float | None:
    """Output tokens/s; None if the engines did not start, which may take this one's share of the time that is left."""
    say(f"{layout.name}: {layout.replicas} replica(s) of {layout.sizes}, {len(trial.messages)} requests")
    records = trial.out / layout.name
    sizes = {
        "tensor_parallel_size": layout.sizes.tensor,
        "pipeline_parallel_size": layout.sizes.pipeline,
        "replicas": layout.replicas,
        "max_num_seqs": layout.seats,
        "startup_timeout": (trial.deadline - time.monotonic()) / left,
    }
    spec = trial.spec.model_copy(update=sizes)
    try:
        figures = run_ours(_order(trial, spec), spec, records, trial.cluster)
    except (KosenError, RayError) as error:
        problem = cause_of(error) if isinstance(error, RayError) else error
        say(f"{layout.name}: {problem}")
        _tell(trial.out, **layout.row, error=str(problem).splitlines()[-1].strip())  # an engine's log ends with it
        return None
    except KeyboardInterrupt:
        if found := counted_records(records):
            _tell(trial.out, **layout.row, **_rates(trial, layout, read_records(found, None)))
        raise
    _tell(trial.out, **layout.row, **_rates(trial, layout, figures))
    return None if figures.failed else figures.output_tokens / figures.seconds


def _order(trial: Trial, spec: ServingSpec) -> RequestOrder:
    return RequestOrder(
        model=trial.model.source,
        options=engine_kwargs(trial.model.source, spec, trial.cluster.gpus),
        messages=trial.messages,
        output_tokens=trial.output_tokens,
        warm_up=WARM_UP_REQUESTS,
        seconds=trial.deadline - time.monotonic(),
    )


def _rates(trial: Trial, layout: Layout, found: Figures) -> dict[str, Any]:
    """What was measured; every answer has all of its tokens, so they tell how many answers there are."""
    speed = found.output_tokens / found.seconds
    return {
        "requests": len(trial.messages),
        "answered": found.output_tokens // trial.output_tokens,
        "failed": found.failed,
        "seconds": found.seconds,
        "output_tokens_per_second": speed,
        "predicted_over_measured": layout.predicted / speed if layout.predicted and speed else None,
    }


def _tell(out: Path, **line: Any) -> None:
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in line.items()}
    print(json.dumps(rounded), flush=True)
    with (out / "layouts.jsonl").open("a") as file:
        file.write(json.dumps(rounded) + "\n")


if __name__ == "__main__":
    run_command(main)
