"""What the benchmark runs on: the cluster's GPUs, or its CPUs where it has none."""

from jobs.benchmarking.results import Device
from jobs.benchmarking.spec import BenchSpec
from orchestrator.cluster import Cluster
from orchestrator.errors import ClusterNotReady


def choose_device(spec: BenchSpec, cluster: Cluster) -> Device:
    """Raises ClusterNotReady for device=cuda on a cluster without GPUs."""
    if spec.device == "cuda" and not cluster.gpus:
        raise ClusterNotReady(
            f"device=cuda, but cluster {cluster.name!r} has no GPU. Use a cluster with GPUs, or give device=auto"
        )
    return "cpu" if spec.device == "cpu" or not cluster.gpus else "cuda"
