"""What single options of the engine give for batch work: the same requests through vLLM alone, one engine per option.

    python benchmarks/engine_options.py                              # all variants on one GPU
    python benchmarks/engine_options.py batched_8192 --prompt-tokens 256 --output-tokens 1024

Prints a line of JSON for each variant as soon as it is measured. `base` is what the others differ from: 512 sequences
at once, 16,384 tokens a step (vLLM's own default offline; its servers have 8,192), asynchronous scheduling, CUDA graphs
up to 512 sequences, no prefix cache. Random weights of the 8B shape; seconds go from the first request to the last
answer, all requests handed over at once. A variant that does not start is told and left out. On a CPU all variants run
with the tiny model, which tries this program.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from cluster.probes.gpus import read_gpus  # noqa: E402
from jobs.benchmarking.parts.models import find_model  # noqa: E402
from jobs.benchmarking.parts.offline import RequestOrder, run_engine  # noqa: E402
from jobs.benchmarking.parts.rows import prompts  # noqa: E402
from jobs.benchmarking.parts.serving import LOADS, MODELS, WARM_UP_REQUESTS, serving_spec  # noqa: E402
from jobs.benchmarking.results import Device  # noqa: E402
from orchestrator.errors import COMPLETE, INCOMPLETE, Parser, run_command  # noqa: E402
from orchestrator.serving.options import engine_kwargs  # noqa: E402

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "batched_8192": {"max_num_batched_tokens": 8192},
    "batched_32768": {"max_num_batched_tokens": 32768},
    "seats_256": {"max_num_seqs": 256},
    "seats_1024": {"max_num_seqs": 1024},
    "seats_1024_graphs_1024": {"max_num_seqs": 1024, "compilation_config": {"max_cudagraph_capture_size": 1024}},
    "not_async": {"async_scheduling": False},
    "eager": {"enforce_eager": True},
}
LENGTHS = {"requests": "all", "prompt_tokens": "of each, about", "output_tokens": "of each, exactly"}


def main() -> int:
    args = _parser().parse_args()
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # a fork would inherit CUDA
    found = read_gpus()
    gpus = 1 if found and found.found else 0
    device: Device = "cuda" if gpus else "cpu"
    given = {name: value for name, value in vars(args).items() if name in LENGTHS and value}
    load = replace(LOADS[device], **given)
    model = find_model(args.model or MODELS[device], args.out)
    order = RequestOrder(
        model=model.source,
        options=engine_kwargs(model.source, serving_spec(model, load), gpus),
        messages=prompts(load.requests, load.prompt_tokens, model.source),
        output_tokens=load.output_tokens,
        warm_up=WARM_UP_REQUESTS,
        seconds=float("inf"),
    )
    measured = [_measure(name, replace(order, options=order.options | VARIANTS[name])) for name in args.variants]
    return COMPLETE if all(measured) else INCOMPLETE


def _parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(VARIANTS)
    parser.add_argument("variants", nargs="*", type=_variant, default=list(VARIANTS), help=f"default: all of {names}")
    parser.add_argument("--model", help="a preset, a folder or a name on the hub; default: 8b, on CPUs tiny")
    for name, what in LENGTHS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=what)
    parser.add_argument("--out", type=Path, default=Path("/tmp/kosen-engine-options"), help="for the model")
    return parser


def _variant(name: str) -> str:
    if name not in VARIANTS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(VARIANTS)}")
    return name


def _measure(name: str, order: RequestOrder) -> bool:
    """Print what the variant gave; False if its engine did not start."""
    began = time.monotonic()
    line = {"variant": name, "requests": len(order.messages), "output_tokens": order.output_tokens}
    try:
        found = run_engine(order)
    except (RuntimeError, ValueError) as error:  # vLLM's, whose log on standard error says more
        print(json.dumps(line | {"error": str(error).splitlines()[0]}), flush=True)
        return False
    seconds = {"seconds": round(found.seconds, 2), "start_and_warm_up": round(time.monotonic() - began - found.seconds)}
    speed = {"output_tokens_per_second": round(found.output_tokens / found.seconds)}
    print(json.dumps(line | seconds | speed), flush=True)
    return True


if __name__ == "__main__":
    run_command(main)
