"""Builds loop.cu with the host's nvcc, against the NCCL that torch brings along, so that both run the same library."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("loop.cu")


def build(folder: Path) -> Path:
    """The program, in `folder`. Ends the process with a sentence where nvcc or NCCL's wheel is missing."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not Path(nvcc).exists():
        sys.exit("error: nvcc is not on the PATH. Install CUDA's toolkit, or load its module")
    spec = importlib.util.find_spec("nvidia.nccl")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("error: this Python has no nvidia.nccl package. Run it with the one that has torch for CUDA")
    nccl = Path(next(iter(spec.submodule_search_locations)))
    program = folder / "loop"
    command = [nvcc, "-O2", "-std=c++17", str(SOURCE), "-o", str(program), f"-I{nccl / 'include'}"]
    command += [f"-L{nccl / 'lib'}", "-l:libnccl.so.2", "-Xlinker", f"-rpath={nccl / 'lib'}"]
    subprocess.run(command, check=True)
    return program
