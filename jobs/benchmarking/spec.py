"""The spec of `jobs.bench`."""

from typing import Literal

from pydantic import Field, PositiveInt

from jobs.benchmarking.results import Device
from orchestrator.errors import ClusterNotReady
from orchestrator.spec import SpecModel

Part = Literal["compute", "collectives", "train"]


class CollectivesSpec(SpecModel):
    """Message sizes double from `smallest` to `largest`. By default the device decides: 8 GB on GPUs, 8 MB on CPUs."""

    smallest: PositiveInt = 8  # bytes
    largest: PositiveInt | None = None
    link_rate: float | None = Field(default=None, gt=0)  # bytes/s of one GPU's way to its peers, for the 80 % target


class BenchSpec(SpecModel):
    """What is measured. `nccl` names settings of `NCCL_PROFILES` in jobs/benchmarking/nccl.py."""

    run: str | None = None  # the results folder; default: bench_<time>
    parts: list[Part] = ["compute", "collectives", "train"]
    device: Literal["auto", "cuda", "cpu"] = "auto"
    nccl: Literal["spectrum-x"] | None = None
    collectives: CollectivesSpec = CollectivesSpec()

    def settle_device(self, gpus: int) -> Device:
        """What is measured on a cluster with so many GPUs. Raises ClusterNotReady where it has none and needs them."""
        if self.device == "cuda" and not gpus:
            raise ClusterNotReady("device=cuda, but the cluster has no GPU. Use another cluster, or give device=auto")
        return ("cuda" if gpus else "cpu") if self.device == "auto" else self.device
