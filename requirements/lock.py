"""Renew both lock files from pyproject.toml; run by `make lock`."""

import os
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMON = ["--extra", "dev", "--extra", "tasks", "--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
COMMON += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
TORCH = re.compile(r"^torch==(\S+) \\\n((?:    --hash=\S+(?: \\)?\n)+)", re.MULTILINE)


def main() -> None:
    compile_lock("gpu", [])
    cpu = HERE / "cpu.txt"
    before = cpu.read_text()
    find_links = os.environ.get("PIP_FIND_LINKS")
    source = ["--find-links", find_links] if find_links else ["--torch-backend", "cpu"]
    compile_lock("cpu", ["--override", str(HERE / "cpu-overrides.txt"), *source])
    cpu.write_text(keep_torch_hashes(before, cpu.read_text()))


def compile_lock(profile: str, options: list[str]) -> None:
    uv = HERE.parent / ".venv" / "bin" / "uv"
    output = ["-o", str(HERE / f"{profile}.txt")]
    subprocess.run(
        [uv, "pip", "compile", "pyproject.toml", "--extra", profile, *COMMON, *options, *output],
        cwd=HERE.parent,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def keep_torch_hashes(before: str, after: str) -> str:
    """A folder of wheels may hold torch for one Python only: keep the old lock's hashes of the same version."""
    old, new = TORCH.search(before), TORCH.search(after)
    if not old or not new or old[1] != new[1]:
        return after
    hashes = sorted({line.strip().removesuffix(" \\") for line in (old[2] + new[2]).splitlines()})
    entry = f"torch=={new[1]} \\\n    " + " \\\n    ".join(hashes) + "\n"
    return after.replace(new[0], entry)


if __name__ == "__main__":
    main()
