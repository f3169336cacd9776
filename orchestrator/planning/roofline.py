"""Predicted throughput of a layout: a small roofline model of a replica that decodes all the time.

A replica has `sequences` in work. To give each one more token takes `step` seconds, to take in a new prompt `prefill`
seconds; in the time of its D output tokens every sequence takes both, so tokens/s = n·D / (D·step + n·prefill).
A step is what its parts take one after the other (Williams et al., Roofline, CACM 2009, for each of them):
matrix products, max(weights / bandwidth, FLOPs / peak); attention, max(KV cache / bandwidth, FLOPs / peak);
two all-reduces a layer under tensor parallelism; and what the host does.

The constants: one of them, SEQUENCE_OVERHEAD, is fitted, to the one measurement that there is: Qwen3-8B's shape in
bf16 on one H200 under vLLM 0.25, 2048 chat requests of 520 prompt and 256 output tokens, 512 sequences at once: 9,892
output tokens/s. A plain matrix product on that GPU was measured at 790 TFLOP/s, 0.8 of its peak, at best. The others
are estimates. One measurement cannot separate the constants: trust the order of the candidates more than the
figures, and the figures least for tensor and pipeline parallelism, other GPUs, experts, and quantised weights, whose
products are taken to run at bf16's rate.
"""

from dataclasses import dataclass

from orchestrator.planning.gpus import GpuKind
from orchestrator.planning.shape import Shape
from orchestrator.planning.weights import Weights

MATMUL_EFFICIENCY = 0.65  # share of the peak; below the 0.8 of one large product for what lies between those of a layer
BANDWIDTH_EFFICIENCY = 0.8  # share of the memory's
LINK_EFFICIENCY = 0.6  # share of NVLink's, in an all-reduce
ALL_REDUCE_LATENCY = 10e-6  # seconds
STEP_OVERHEAD = 2e-3  # seconds a step: scheduling, launching, sampling
SEQUENCE_OVERHEAD = 4.4e-6  # seconds a sequence in a step: fitted
PIPELINE_BUBBLE = 0.1  # share of a pipeline's time that its stages wait for one another


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of a model on tensor_parallel_size × pipeline_parallel_size GPUs."""

    shape: Shape
    weights: Weights
    gpu: GpuKind
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    cache_value: float = 2.0  # bytes of a value in the KV cache

    @property
    def flops(self) -> float:
        """FLOP/s of one stage's matrix products."""
        return self.gpu.flops * MATMUL_EFFICIENCY * self.tensor_parallel_size

    @property
    def bandwidth(self) -> float:
        """Bytes/s of one GPU's memory."""
        return self.gpu.bandwidth * BANDWIDTH_EFFICIENCY

    @property
    def layer_shares(self) -> tuple[float, ...]:
        """Each stage's share of the layers, as vLLM divides them (distributed.utils.get_pp_indices)."""
        each, left = divmod(self.shape.layers, self.pipeline_parallel_size)
        stages = [each] * self.pipeline_parallel_size
        for i in range(2, left + 2):
            stages[-i] += 1
        return tuple(stage / self.shape.layers for stage in stages)


def throughput(replica: Replica, sequences: int, prompt_tokens: int, output_tokens: int) -> float:
    """Output tokens/s of one replica that has `sequences` in work all the time."""
    step = step_seconds(replica, sequences, prompt_tokens + output_tokens // 2)
    prefill = prefill_seconds(replica, prompt_tokens)
    return sequences * output_tokens / (output_tokens * step + sequences * prefill)


def step_seconds(replica: Replica, sequences: int, context: int) -> float:
    """Seconds in which each of `sequences`, with `context` tokens each, gets one more token.

    A pipeline keeps as many batches in work as it has stages, and all stages wait for the slowest.
    """
    stages = replica.pipeline_parallel_size
    batch = sequences / stages
    layers = _layer_seconds(replica, batch, context)
    times = [share * layers for share in replica.layer_shares]
    times[-1] += _output_seconds(replica, batch)
    return stages * (_with_bubble(replica, max(times)) + STEP_OVERHEAD + SEQUENCE_OVERHEAD * batch)


def prefill_seconds(replica: Replica, tokens: int) -> float:
    """Seconds that a prompt of `tokens` costs among many others; causal attention is half of the square."""
    shape = replica.shape
    attention = 4 * shape.attention_width * shape.attended(tokens) * tokens / 2
    flops = 2 * shape.active_parameters * tokens + attention
    seconds = flops / replica.flops + shape.layers * _all_reduce_seconds(replica, tokens)
    return _with_bubble(replica, max(replica.layer_shares) * seconds) + 2 * shape.output_parameters / replica.flops


def enough_sequences(replica: Replica) -> int:
    """Sequences from which on a step's matrix products take longer than reading the weights: the ridge of the roofline.

    n · 2 · active parameters / peak = bytes of the weights / bandwidth. Fewer leave the GPU's arithmetic idle.
    """
    size = replica.tensor_parallel_size
    reading = replica.weights.layer_bytes(replica.shape, size) / replica.bandwidth
    return round(reading * replica.flops / (2 * replica.shape.active_parameters))


def _layer_seconds(replica: Replica, batch: float, context: int) -> float:
    """All layers, one step of `batch` sequences. Of the experts those are read that some sequence is sent to."""
    shape, size = replica.shape, replica.tensor_parallel_size
    used = 1 - (1 - shape.active_share) ** batch
    reading = replica.weights.layer_bytes(shape, size, used) / replica.bandwidth
    products = 2 * shape.active_parameters * batch / replica.flops
    cache = batch * shape.cache_bytes(context, replica.cache_value, size) / replica.bandwidth
    attention = batch * 4 * shape.attention_width * shape.attended(context) / replica.flops
    reduce = shape.layers * (_all_reduce_seconds(replica, batch) + 2 * ALL_REDUCE_LATENCY * (size > 1))
    return max(reading, products) + max(cache, attention) + reduce


def _output_seconds(replica: Replica, batch: float) -> float:
    size = replica.tensor_parallel_size
    reading = replica.weights.output_bytes(replica.shape) / size / replica.bandwidth
    return max(reading, 2 * replica.shape.output_parameters * batch / replica.flops)


def _all_reduce_seconds(replica: Replica, tokens: float) -> float:
    """Two of them in a layer, as a ring: each GPU sends and receives 2(t-1)/t of the activations."""
    size = replica.tensor_parallel_size
    data = tokens * replica.shape.hidden * replica.weights.value
    return 2 * 2 * (size - 1) / size * data / (replica.gpu.link * LINK_EFFICIENCY)


def _with_bubble(replica: Replica, seconds: float) -> float:
    return seconds / (1 - PIPELINE_BUBBLE) if replica.pipeline_parallel_size > 1 else seconds
