"""Which layout to take: every one that fits gets a predicted throughput, and the highest wins."""

from dataclasses import dataclass

from orchestrator.errors import SpecError
from orchestrator.planning.gpus import GIB, GpuKind
from orchestrator.planning.roofline import Replica, enough_sequences, throughput
from orchestrator.planning.shape import Shape
from orchestrator.planning.weights import Weights

# Beside weights and KV cache a GPU holds CUDA's and NCCL's own memory and the CUDA graphs (an estimate: 2.5 GiB), the
# activations of one batch of prompts, and the logits of all sequences in float32 with a copy that the sampler makes.
FIXED_RESERVE = 2.5 * GIB


@dataclass(frozen=True, slots=True)
class Demand:
    """What the model is to do, and the part of each GPU that it may take."""

    prompt_tokens: int
    output_tokens: int
    max_model_len: int
    max_num_seqs: int
    gpu_memory_utilization: float
    cache_value: float  # bytes of a value in the KV cache


@dataclass(frozen=True, slots=True)
class Hardware:
    """The GPUs of each host, all of one kind."""

    gpu: GpuKind
    hosts: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.hosts)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One layout; `tokens_per_second` of all replicas, None where it does not fit, and `reason` says why."""

    tensor_parallel_size: int
    pipeline_parallel_size: int
    replicas: int
    weight_bytes: float  # on the fullest GPU
    sequences: int  # that one replica holds at the expected length, at most max_num_seqs
    enough: int  # from which on a step is no longer bound by reading the weights
    tokens_per_second: float | None
    reason: str

    @property
    def gpus(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size


@dataclass(frozen=True, slots=True)
class Plan:
    """The chosen layout, all that were considered, and what one replica over all GPUs would do."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    one_replica: Candidate


def choose(shape: Shape, weights: Weights, hardware: Hardware, demand: Demand, model: str) -> Plan:
    """The layout of most predicted throughput, of all that the heads and the GPUs allow; pipelines are among them
    whether or not a host holds the model, since they leave each replica more room for sequences.

    Raises SpecError where no layout fits.
    """
    candidates = [weigh(shape, weights, hardware, demand, *sizes) for sizes in _layouts(shape, hardware)]
    fitting = [candidate for candidate in candidates if candidate.tokens_per_second]
    if not fitting:
        raise SpecError(_nowhere(shape, weights, hardware, demand, model))
    chosen = max(fitting, key=lambda candidate: (candidate.tokens_per_second or 0, -candidate.gpus))
    one_replica = weigh(shape, weights, hardware, demand, min(hardware.hosts), len(hardware.hosts))
    return Plan(chosen, tuple(candidates), one_replica)


def _layouts(shape: Shape, hardware: Hardware) -> list[tuple[int, int]]:
    """Tensor and pipeline parallel sizes to consider: a stage stays inside a host, and for each number of replicas a
    pipeline is as deep as the GPUs allow."""
    layouts = []
    for size in range(1, max(hardware.hosts, default=0) + 1):
        if shape.heads % size == 0:
            stages = sum(host // size for host in hardware.hosts)
            layouts += [(depth, size) for depth in {1, *(stages // n for n in range(1, stages + 1))}]
    return [(size, depth) for depth, size in sorted(layouts) if depth <= shape.layers]


def weigh(shape: Shape, weights: Weights, hardware: Hardware, demand: Demand, size: int, stages: int) -> Candidate:
    """One layout with what speaks against it, or its throughput."""
    replica = Replica(shape, weights, hardware.gpu, size, stages, demand.cache_value)
    weight_bytes = weights.gpu_bytes(shape, size, replica.layer_shares)
    replicas = sum(host // size for host in hardware.hosts) // stages
    room = usable_bytes(shape, hardware.gpu, demand, size) - weight_bytes
    prompt, output = demand.prompt_tokens, demand.output_tokens
    sequences = min(int(max(room, 0) / _cache_bytes(replica, prompt + output)), demand.max_num_seqs)
    enough = enough_sequences(replica)
    wrong = _indivisible(shape, weights, size) or _too_small(replica, demand, weight_bytes, room, replicas)
    per_second = None if wrong else replicas * throughput(replica, sequences, prompt, output)
    amount = "enough" if sequences >= enough else f"fewer than the {enough} that keep it computing"
    reason = wrong or f"{sequences} sequences a replica: {amount}"
    return Candidate(size, stages, replicas, weight_bytes, sequences, enough, per_second, reason)


def usable_bytes(shape: Shape, gpu: GpuKind, demand: Demand, tensor_parallel_size: int) -> float:
    """Bytes of a GPU for weights and KV cache: what vLLM may take, without the reserve described above."""
    width = max(shape.widths) * max(1, shape.experts_per_token) / tensor_parallel_size
    activations = batched_tokens(gpu) * (4 * shape.hidden + 2 * width) * 2
    logits = 2 * 4 * demand.max_num_seqs * shape.vocab
    return gpu.memory * demand.gpu_memory_utilization - FIXED_RESERVE - activations - logits


def batched_tokens(gpu: GpuKind) -> int:
    """Tokens of a step: what vLLM takes offline by itself. Its servers take less, for early first tokens."""
    return 16384 if gpu.memory >= 70 * GIB and not gpu.name.startswith("a100") else 8192


def _cache_bytes(replica: Replica, tokens: int) -> float:
    """Bytes of one sequence on the fullest GPU."""
    whole = replica.shape.cache_bytes(tokens, replica.cache_value, replica.tensor_parallel_size)
    return whole * max(replica.layer_shares)


def _indivisible(shape: Shape, weights: Weights, size: int) -> str:
    """Why vLLM would refuse this tensor parallel size, "" if it does not."""
    if shape.heads % size:
        return f"{shape.heads} attention heads cannot be divided by {size}"
    if not shape.mla and shape.kv_heads % size and size % shape.kv_heads:
        return f"{shape.kv_heads} KV heads can neither be divided by {size} nor repeated"
    odd = next((width for width in shape.widths if width % (size * weights.block)), None)
    blocks = f" blocks of {weights.block}" if weights.block > 1 else ""
    return f"an MLP of width {odd} cannot be divided into {size} times{blocks or ' as much'}" if odd else ""


def _too_small(replica: Replica, demand: Demand, weight_bytes: float, room: float, replicas: int) -> str:
    """What does not fit, "" if all does. vLLM wants room for one sequence of max_model_len before it starts."""
    if not replicas:
        return "more GPUs than there are"
    if room <= 0:
        return f"{_gib(weight_bytes)} of weights on a GPU, room for {_gib(weight_bytes + room)}"
    longest = _cache_bytes(replica, demand.max_model_len)
    if longest > room:
        return f"one sequence of {demand.max_model_len} tokens needs {_gib(longest)}, {_gib(room)} are left"
    return ""


def _nowhere(shape: Shape, weights: Weights, hardware: Hardware, demand: Demand, model: str) -> str:
    needed = weights.total(shape) + shape.cache_bytes(demand.max_model_len, demand.cache_value)
    size = max(hardware.hosts, default=0)
    usable = usable_bytes(shape, hardware.gpu, demand, size or 1)
    return (
        f"{model} fits nowhere: {_gib(weights.total(shape))} of weights ({weights.source}), {_gib(needed)} with one "
        f"sequence of {demand.max_model_len} tokens; {hardware.total} x {hardware.gpu.name} on {len(hardware.hosts)} "
        f"host(s) hold {_gib(usable * hardware.total)}, {_gib(usable)} each after reserves, and not every number "
        "of GPUs divides the model. Take quantised weights, more hosts, or a shorter max_model_len"
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
