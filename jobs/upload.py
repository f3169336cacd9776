"""Uploads a model folder to the Hugging Face hub: private unless public=true, resumable, only what belongs there.

The token is HF_TOKEN, from the environment or the secrets file.
"""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import Parser, run_command
from orchestrator.ray_cluster.find import local_path
from orchestrator.spec import load_spec
from orchestrator.training.checkpoints.model_folder import survey
from orchestrator.training.checkpoints.upload import UploadSpec, describe, upload


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m jobs.upload", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE", help="a spec with the keys below")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded, and do nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="folder=, repo=, public=, any_folder=")
    args = parser.parse_intermixed_args(argv)
    spec = load_spec(UploadSpec, args.config, args.overrides)
    folder = local_path(spec.folder).absolute()
    plan = survey(folder, spec.any_folder)
    print(describe(spec, folder, plan) if args.dry_run else upload(spec, folder, plan))
    return 0


if __name__ == "__main__":
    run_command(main)
