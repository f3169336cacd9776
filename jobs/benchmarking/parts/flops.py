"""What a training step costs, and what a GPU could do: the two sides of model FLOP utilisation (MFU)."""

from orchestrator.planning.gpus import KNOWN, GpuKind, find_gpu
from orchestrator.planning.shape import Shape

SLOWER = "nvl"  # cards that share a name with faster ones


def flops_per_token(shape: Shape, length: float, *, lora: bool) -> float:
    """FLOP a token of a training step, forward and backward: 6N + 12·L·H·Q·T (PaLM, arXiv 2204.02311, appendix B).

    N counts all parameters that a token meets but the input embeddings (a tied head counts once), L layers, H heads, Q
    their size and T = `length` tokens of a row; recomputation is not counted. With LoRA it is 4N: frozen weights need
    no gradient of their own, and the adapters are too small to count.
    """
    parameters = shape.active_parameters + shape.output_parameters + shape.parameters.norms
    return (4 if lora else 6) * parameters + 12 * shape.attention_width * shape.layers * length


def peak_flops(gpu: str) -> float | None:
    """FLOP/s of dense bfloat16 by the vendor's data sheet, for a GPU as its driver names it; None: not known."""
    found = find_named(gpu)
    return found.flops if found else None


def find_named(gpu: str) -> GpuKind | None:
    """The figures of a GPU as its driver names it; None: not known."""
    words = set(gpu.lower().replace("-", " ").split())
    if SLOWER in words:
        return None
    kinds = [kind for kind in KNOWN if words.issuperset(kind.split("-"))]
    return find_gpu(max(kinds, key=len)) if kinds else None
