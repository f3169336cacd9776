"""The GPUs whose figures we know."""

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.errors import SpecError

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class GpuKind:
    """Figures of the vendor's data sheets; memory as `nvidia-smi` shows it."""

    name: str
    memory: float  # bytes
    bandwidth: float  # bytes/s of the memory
    flops: float  # FLOP/s of dense bf16 matrix products
    link: float  # bytes/s to the other GPUs of its host, in one direction: NVLink, else PCIe


# name: memory (GiB), memory bandwidth (TB/s), bf16 (TFLOP/s), link (GB/s)
_FIGURES = {
    "a100-40gb": (40.0, 1.555, 312, 300),
    "a100-80gb": (80.0, 2.039, 312, 300),
    "l40s": (45.0, 0.864, 362, 32),
    "h100": (79.6, 3.35, 989, 450),
    "h100-pcie": (79.6, 2.0, 756, 64),
    "gh200": (95.6, 4.0, 989, 450),
    "h200": (140.4, 4.8, 989, 450),
    "b200": (179.1, 8.0, 2250, 900),
}
# Ray calls both A100s by one name: a plan for the smaller fits the larger too.
_ALSO = {"a100": "a100-40gb", "a100-40g": "a100-40gb", "a100-80g": "a100-80gb"}
KNOWN = tuple(_FIGURES)
_ACCELERATOR = "accelerator_type:"  # how Ray's resources name a node's GPUs


def named_kinds(resources: Iterable[str]) -> set[str]:
    """How Ray names the kinds of GPU among these names of resources; empty where it does not know them."""
    kinds = {key.removeprefix(_ACCELERATOR) for key in resources if key.startswith(_ACCELERATOR)}
    # An A100 may be named a second time, with its memory.
    return {kind for kind in kinds if not any(other.startswith(f"{kind}-") for other in kinds)}


def find_gpu(name: str, memory_gib: float | None = None) -> GpuKind:
    """The GPU called `name`, as we or Ray call it; `memory_gib` replaces its memory. Raises SpecError."""
    key = _ALSO.get(name.lower(), name.lower())
    if key not in _FIGURES:
        raise SpecError(
            f"the GPU {name!r} is not known. Known are {', '.join(KNOWN)}: plan with the one nearest to it "
            "(python -m orchestrator.plan --gpu NAME --gpu-memory GiB) and give the layout in the spec"
        )
    memory, bandwidth, flops, link = _FIGURES[key]
    return GpuKind(key, (memory_gib or memory) * GIB, bandwidth * 1e12, flops * 1e12, link * 1e9)
