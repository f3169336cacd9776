"""What each choice of `jobs.sft` does to the time of a step: a process a variant and a GPU, without Ray.

    python benchmarks/sft_variants.py 4b                                   # all variants
    python benchmarks/sft_variants.py 4b --variants ours --profile         # and the time of each kernel, in a file
    python benchmarks/sft_variants.py 4b --variants ours --workers 8       # on 8 GPUs, each with as many rows

It is our trainer in verl's, with the keys that `jobs.sft` would give it for full rows of `--length` tokens; a variant
changes some. One JSON line each: medians over the steps after the first two, in which code is compiled.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from shapes import PEAK, SHAPES, flops_per_token, make_model, template_overhead, write_rows  # noqa: E402

WARM_UP = 2  # steps
EAGER = {"engine.use_torch_compile": False}
MANY_KERNELS = {"optim.override_optimizer_config.fused": False}
RESHARD = {"engine.reshard_after_forward": True, "engine.use_no_sync_for_gradient_accumulation": False}
PACKED: dict[str, Any] = {
    "model.use_remove_padding": True,
    "model.override_config.attn_implementation": "packed_sdpa",
    "data.use_dynamic_bsz": True,
}
# `ours` is what jobs.sft gives for padded rows; each other one takes something away, or adds it.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": EAGER | MANY_KERNELS | RESHARD,
    "eager": EAGER,
    "ours": {},
    "many_kernels": MANY_KERNELS,
    "reshard": RESHARD,
    "cudnn": {},  # attention by cuDNN in place of flash attention
    "packed": PACKED,
    "packed_eager": PACKED | EAGER,
    "checkpointing": {"model.enable_gradient_checkpointing": True},
}


def main() -> None:
    args = _arguments()
    if args.variant:
        figures = _measure(args, args.variant)
        if os.environ["RANK"] == "0":
            print(json.dumps(figures), flush=True)
        return
    model = args.work / args.shape
    if not (model / "config.json").exists():
        print(f"{model}: {make_model(model, args.shape):,} parameters", flush=True)
    write_rows(_rows(args), args.rows * args.workers * args.steps, args.length, template_overhead(model))
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.workers}"]
    for name in args.variants:
        began = time.monotonic()
        with (args.work / f"{name}.log").open("w") as log:
            command = [sys.executable, *launch, __file__, *sys.argv[1:], "--variant", name]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, check=False)
        line = done.stdout.strip().rpartition("\n")[2]
        found = json.loads(line) if done.returncode == 0 else {"exit_code": done.returncode, "log": log.name}
        print(json.dumps({"variant": name, **found, "total_s": round(time.monotonic() - began)}), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--length", type=int, default=4096, help="tokens a row")
    parser.add_argument("--rows", type=int, default=8, help="of a worker in a step")
    parser.add_argument("--micro", type=int, default=1, help="rows at once")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--workers", type=int, default=1, help="processes, a GPU each where there are any")
    parser.add_argument("--profile", action="store_true", help="the last step's kernels into WORK/VARIANT-kernels.txt")
    parser.add_argument("--work", type=Path, default=Path("/tmp/kosen-variants"), help="models, data, logs")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    return parser.parse_args()


def _rows(args: argparse.Namespace) -> Path:
    return Path(args.work / f"rows-{args.length}.jsonl")


def _measure(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """In a process of its own: verl chooses its platform, and torch its memory, once."""
    import torch

    from orchestrator.training.environment import worker_env

    device = "cuda" if torch.cuda.is_available() else "cpu"
    os.environ.update(worker_env(cpu=device == "cpu"))
    if name == "cudnn":  # which torch's compiler does not know of, so that it takes the others' code from its cache
        os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
    from verl.utils.distributed import initialize_global_process_group

    initialize_global_process_group()
    trainer = _trainer(args, name, device)
    times, tokens = _time_steps(trainer, args)
    memory = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None
    config = json.loads((args.work / args.shape / "config.json").read_text())
    if args.profile:
        times.pop()  # the last step was watched
    seconds = statistics.median(times[WARM_UP:])
    return {
        "workers": args.workers,
        "rows": args.rows,
        "micro": args.micro,
        "length": args.length,
        "first_s": round(times[0], 1),
        "seconds": [round(each, 3) for each in times[WARM_UP:]],
        "tokens_per_second": round(tokens / seconds),
        "mfu": round(tokens / args.workers / seconds * flops_per_token(config, args.length) / PEAK, 4),
        "peak_memory_gb": memory and round(memory, 1),
    }


def _trainer(args: argparse.Namespace, name: str, device: Any) -> Any:
    import pandas as pd
    import torch

    from orchestrator.spec import load_spec
    from orchestrator.training.config import verl_config
    from orchestrator.training.config.placement import Placement
    from orchestrator.training.config.sft_config import sft_keys
    from orchestrator.training.folder import TrainingFolder
    from orchestrator.training.spec import SftSpec
    from orchestrator.training.trainer.sft_trainer import Trainer

    rank = os.environ["RANK"]
    folder = TrainingFolder(args.work / f"{name}-{args.rows}-{args.micro}-{rank}")
    folder.data.mkdir(parents=True, exist_ok=True)
    pd.read_json(_rows(args), lines=True).to_parquet(folder.data / "train.parquet")
    given = [f"model={args.work / args.shape}", f"train={_rows(args)}", "packing=false", "gradient_checkpointing=false"]
    size = [f"batch_size={args.rows * args.workers}", f"micro_batch_size={args.micro}", f"max_length={args.length}"]
    spec = load_spec(SftSpec, None, [*given, *size, f"max_tokens_per_gpu={args.length * args.micro}"])
    memory = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else None
    keys = sft_keys(spec, Placement(device, 1, args.workers, "a benchmark", memory), folder)
    steps = {"trainer.total_training_steps": args.steps, "trainer.save_freq": -1, "trainer.resume_mode": "disable"}
    return Trainer(verl_config.resolve("sft", keys | steps, VARIANTS[name]), folder, None)


def _time_steps(trainer: Any, args: argparse.Namespace) -> tuple[list[float], int]:
    """Seconds of each step, the device having done its work, and the tokens of a step."""
    import torch

    times: list[float] = []
    client = trainer.training_client
    inner = client.train_batch

    def timed(data: Any) -> Any:
        _wait()
        began = time.perf_counter()
        if args.profile and len(times) == args.steps - 1:
            kind = torch.profiler.ProfilerActivity
            with torch.profiler.profile(activities=[kind.CUDA if torch.cuda.is_available() else kind.CPU]) as profile:
                output = inner(data=data)
                _wait()
            _write_kernels(profile, args, time.perf_counter() - began)
        else:
            output = inner(data=data)
            _wait()
        times.append(time.perf_counter() - began)
        return output

    client.train_batch = timed
    trainer.ckpt_handler.save_checkpoint = lambda step: None  # the weights are not wanted
    trainer.run()
    return times, args.rows * args.workers * args.length


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _write_kernels(profile: Any, args: argparse.Namespace, seconds: float) -> None:
    """Milliseconds of each kernel in the step, which took `seconds` while it was watched; the longest first."""
    import torch

    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    on_gpu = torch.autograd.DeviceType.CUDA
    for event in profile.profiler.kineto_results.events():
        if torch.cuda.is_available() and event.device_type() != on_gpu:
            continue
        times[event.name()] += event.duration_ns() / 1e6
        calls[event.name()] += 1
    lines = [f"{times[name]:10.2f} ms {calls[name]:7} × {name[:150]}" for name, _ in times.most_common(60)]
    head = f"{sum(times.values()):10.2f} ms in all, of a step of {1e3 * seconds:.2f} ms"
    (args.work / f"{args.variant}-{args.micro}-kernels.txt").write_text("\n".join([head, *lines]))


if __name__ == "__main__":
    main()
