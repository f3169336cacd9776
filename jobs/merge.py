"""Makes a Hugging Face folder of a training run's checkpoint, which vLLM, transformers and `jobs.upload` take.

Needs no GPU and no cluster. Memory: the model in the precision that is written (two bytes a parameter in bfloat16).
"""

from collections.abc import Sequence
from pathlib import Path

from orchestrator import secrets
from orchestrator.errors import Parser, run_command
from orchestrator.spec import load_spec
from orchestrator.training.checkpoints.merge_run import MergeSpec, merge


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m jobs.merge", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE", help="a spec with the keys below")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="run=, step=, out=, dtype=")
    args = parser.parse_intermixed_args(argv)
    spec = load_spec(MergeSpec, args.config, args.overrides)
    secrets.load_into_environment()
    print(merge(spec))
    return 0


if __name__ == "__main__":
    run_command(main)
