"""The spec of `jobs.bench`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from jobs.benchmarking.results import Device, Way
from orchestrator.errors import ClusterNotReady
from orchestrator.spec import SpecModel

Counts = Annotated[list[PositiveInt], Field(min_length=1)]
Part = Literal["compute", "collectives", "train", "serve"]


class CollectivesSpec(SpecModel):
    """Message sizes double from `smallest` to `largest`. By default the device decides: 8 GB on GPUs, 8 MB on CPUs."""

    smallest: PositiveInt = 8  # bytes
    largest: PositiveInt | None = None
    link_rate: float | None = Field(default=None, gt=0)  # bytes/s of one GPU's way to its peers, for the 80 % target


class TrainSpec(SpecModel):
    """SFT by `jobs.sft`. A preset (`PRESETS` in jobs/benchmarking/parts/models.py) is a shape with random weights;
    so is a folder without weights."""

    model: str | None = None  # a preset, a folder or a name on the hub; default: 7b on GPUs, tiny on CPUs
    data: str | None = None  # what `train` of jobs.sft takes: tatsu-lab/alpaca is the seed's; default: made, full rows
    workers: Counts | Literal["auto"] = "auto"  # auto: 1, 2, 4, … all GPUs, beyond one node whole nodes
    rows_per_worker: PositiveInt | None = None  # in a step; default: 4 micro batches
    micro_batch_size: PositiveInt | None = None  # default: the preset's, 1 for another model
    steps: PositiveInt = 6  # that count; 2 before them warm up
    lora: bool = False  # as the seed: rank 16, alpha 32, on queries, keys, values and outputs
    search: bool = True  # on one GPU, for the largest micro batch that fits


class ServeSpec(SpecModel):
    """Requests of equal length, answers of exactly `output_tokens`. The device decides what is not given here."""

    model: str | None = None  # as in `train`; default: 8b on GPUs, tiny on CPUs
    requests: PositiveInt | None = None  # default: 2,048 on GPUs
    prompt_tokens: PositiveInt | None = None  # about; default: 520 on GPUs
    output_tokens: PositiveInt | None = None  # default: 256 on GPUs
    max_num_seqs: PositiveInt | None = None  # sequences that an engine decodes at once; default: 512 on GPUs
    replicas: Counts | Literal["auto"] = "auto"  # of ours; auto: 1, 2, 4, …
    ways: list[Way] = Field(default=["engine", "vllm_serve", "kosen"], min_length=1)  # fewer where engines start slowly


class BenchSpec(SpecModel):
    """What is measured. `nccl` names settings of `NCCL_PROFILES` (nccl.py), for collectives and training."""

    run: str | None = None  # the results folder; default: bench_<time>
    parts: list[Part] = ["compute", "collectives", "train", "serve"]
    device: Literal["auto", "cuda", "cpu"] = "auto"
    nccl: Literal["spectrum-x"] | None = None
    collectives: CollectivesSpec = CollectivesSpec()
    train: TrainSpec = TrainSpec()
    serve: ServeSpec = ServeSpec()

    def settle_device(self, gpus: int) -> Device:
        """What is measured on a cluster with so many GPUs. Raises ClusterNotReady where it has none and needs them."""
        if self.device == "cuda" and not gpus:
            raise ClusterNotReady("device=cuda, but the cluster has no GPU. Use another cluster, or give device=auto")
        return ("cuda" if gpus else "cpu") if self.device == "auto" else self.device
