"""The layout of a model on GPUs: which tensor and pipeline parallel sizes, how many replicas, and why.

python -m orchestrator.plan --model Qwen/Qwen3-32B --gpus 16 --gpu h100

Needs no cluster. Where one runs, its GPUs are taken if --gpus is left out.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from orchestrator.errors import COMPLETE, Parser, SpecError, run_command
from orchestrator.planning.choice import Hardware
from orchestrator.planning.gpus import KNOWN, find_gpu
from orchestrator.planning.report import as_json, as_text
from orchestrator.planning.request import OUTPUT_TOKENS, PROMPT_TOKENS, plan_layout
from orchestrator.ray_cluster.find import current, find_path
from orchestrator.serving.spec import ServingSpec


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if args.gpu is None:
        raise SpecError(f"a cluster's state does not say which GPUs it has. Give --gpu, one of {', '.join(KNOWN)}")
    hardware = Hardware(find_gpu(args.gpu, args.gpu_memory), _hosts(args.gpus, args.gpus_per_host))
    planned = plan_layout(
        find_path(args.model),
        _serving(args),
        hardware,
        prompt_tokens=args.prompt_tokens,
        output_tokens=args.output_tokens,
    )
    print(json.dumps(as_json(planned), indent=2) if args.json else as_text(planned))
    return COMPLETE


def _parser() -> Parser:
    parser = Parser(prog="python -m orchestrator.plan", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder with a config.json, or a name on the hub")
    parser.add_argument("--gpus", type=_positive, metavar="N", help="default: those of the running cluster")
    parser.add_argument("--gpu", metavar="KIND", help=f"one of {', '.join(KNOWN)}")
    parser.add_argument("--gpus-per-host", type=_positive, default=8, metavar="N", help="with --gpus; default 8")
    parser.add_argument("--gpu-memory", type=float, metavar="GiB", help="of each GPU, if it is not what KIND has")
    for name, default in (("prompt", PROMPT_TOKENS), ("output", OUTPUT_TOKENS)):
        purpose = f"expected in a request; default {default}"
        parser.add_argument(f"--{name}-tokens", type=_positive, metavar="N", help=purpose)
    parser.add_argument("--max-model-len", type=_positive, metavar="N", help="default: what the model has")
    parser.add_argument("--max-num-seqs", type=_positive, metavar="N", help="a replica's; default: vLLM's")
    parser.add_argument("--kv-cache-dtype", choices=("auto", "fp8"), default="auto")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _serving(args: argparse.Namespace) -> ServingSpec:
    more: dict[str, Any] = {} if args.kv_cache_dtype == "auto" else {"kv_cache_dtype": args.kv_cache_dtype}
    return ServingSpec(max_model_len=args.max_model_len, max_num_seqs=args.max_num_seqs, engine_kwargs=more)


def _hosts(gpus: int | None, per_host: int) -> tuple[int, ...]:
    """GPUs of each host: full hosts and what is left, else those of the running cluster."""
    if gpus:
        full, left = divmod(gpus, per_host)
        return (per_host,) * full + ((left,) if left else ())
    state = current()
    hosts = tuple(node.gpus for node in state.nodes if node.gpus) if state else ()
    if not hosts:
        seen = f"cluster {state.name!r} has no GPUs" if state else "no cluster is running"
        raise SpecError(f"{seen}: give --gpus, for example --gpus 16 --gpu h100")
    return hosts


if __name__ == "__main__":
    run_command(main)
