"""What the benchmark's parts write and the report reads: one JSON file each. A file that is missing was not measured.

Rates are bytes/s, FLOP/s or tokens/s, never multiples of them, and times are seconds.
"""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import ValidationError

from cluster.probes.sweep import Operation
from orchestrator.errors import SpecError
from orchestrator.files import write_atomic
from orchestrator.spec import SpecModel, first_line

Device = Literal["cuda", "cpu"]


class PartResult(SpecModel):
    """The content of one file of the results folder."""

    file: ClassVar[str]

    def write(self, folder: Path) -> None:
        write_atomic(folder / self.file, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """None where the part has not been measured. Raises SpecError for a file that is not one of ours."""
        try:
            return cls.model_validate_json((folder / cls.file).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise SpecError(
                f"{folder / cls.file} is not a result of this version: {first_line(error)}. Measure it again"
            ) from None

    @classmethod
    def earlier(cls, folder: Path) -> Self | None:
        """What an earlier call measured; None also for a file that does not read, whose part is measured again."""
        try:
            return cls.read(folder)
        except SpecError:
            return None


class NodeHardware(SpecModel):
    """A node that took part. `gpu` is the GPUs' name, None where it has none."""

    name: str
    cpus: int
    gpus: int
    gpu: str | None
    memory: int  # bytes


class Environment(PartResult):
    """Where and with what it was measured. `versions` by package name; `nccl` and `cuda` are torch's."""

    file: ClassVar = "environment.json"
    started_at: str  # ISO 8601, UTC
    device: Device
    nodes: list[NodeHardware]
    versions: dict[str, str]
    settings: dict[str, str]  # environment variables that steer NCCL


class DeviceRates(SpecModel):
    """One GPU, or one node's CPU. What does not exist there (copies to a CPU) is None."""

    node: str
    index: int | None  # of the GPU on its node; None: the CPU
    name: str
    dtype: str  # of the matrix product
    matmul: float  # FLOP/s
    memory: float  # bytes/s read and written by a copy inside the device's memory
    host_to_device: float | None = None  # bytes/s, from pinned memory
    device_to_host: float | None = None


class Compute(PartResult):
    """Every device: products and memory with all of them at work, host copies with one of a node at a time."""

    file: ClassVar = "compute.json"
    devices: list[DeviceRates]


class Transfer(SpecModel):
    """One operation at one size. `size` and the bandwidths are as nccl-tests define them (its PERFORMANCE.md)."""

    operation: Operation
    size: int  # bytes
    ranks: int
    seconds: float  # of one operation, mean over the ranks
    algorithm_bandwidth: float  # bytes/s
    bus_bandwidth: float | None  # bytes/s; None with a single rank
    correct: bool


class Pair(SpecModel):
    """Two nodes, one rank each."""

    nodes: tuple[str, str]
    latency: float  # seconds of an all-reduce of 8 bytes
    bus_bandwidth: float  # bytes/s, of an all-reduce of the largest size
    correct: bool


class Collectives(PartResult):
    """`pairs` is empty on one node; `peer` are nccl-tests' own figures, empty where it is not installed."""

    file: ClassVar = "collectives.json"
    backend: Literal["nccl", "gloo"]
    transfers: list[Transfer]
    pairs: list[Pair] = []
    peer: list[Transfer] = []


class Training(SpecModel):
    """SFT at one number of workers, after its warm-up steps."""

    workers: int
    nodes: int
    rows_per_worker: int  # in one step, equal at every number of workers
    steps: int
    seconds: float  # of a step, the median
    tokens_per_second: float
    mfu: float | None  # share of the devices' peak; None where the peak is not known
    memory: int | None  # bytes, the most that the first rank's GPU held
    started_at: str | None = None  # ISO 8601, UTC: when the timed steps began and ended, for the GPUs' use meanwhile
    ended_at: str | None = None


class Train(PartResult):
    file: ClassVar = "train.json"
    model: str
    parameters: int
    data: str | None = None  # None: rows of random words, made here
    length: int  # tokens a row: exactly in made rows, at most in others
    lora: bool = False
    runs: list[Training]
    largest_micro_batch: int | None = None  # rows at once that fit one GPU, 0: not even one; None: not searched


Way = Literal["engine", "vllm_serve", "kosen"]


class Serving(SpecModel):
    """One way of asking the same model the same requests."""

    way: Way
    in_flight: int | None  # requests at once; None: all of them
    replicas: int
    requests: int
    failed: int
    seconds: float
    output_tokens: int
    client_cpu: float | None  # seconds of CPU


class Serve(PartResult):
    file: ClassVar = "serve.json"
    model: str
    prompt_tokens: int  # of a request, about
    output_tokens: int  # of a request, exactly: `ignore_eos`
    max_num_seqs: int  # that an engine decodes at once
    ways: list[Serving]
