"""Settings of NCCL under a name. Anything else is set in the site profile, or in the shell that the job starts from."""

import os

from jobs.benchmarking.spec import BenchSpec

NCCL_PROFILES: dict[str, dict[str, str]] = {
    # What SpectrumX-H200-Benchmark sets in configs/nccl_config.conf and setup/configure_nccl.sh, for nodes with two
    # RoCE adapters; without its debug output, a topology file of its site, and a threshold that NCCL no longer reads.
    "spectrum-x": {
        "NCCL_IB_HCA": "mlx5_0,mlx5_1",
        "NCCL_IB_GID_INDEX": "3",
        "NCCL_IB_TC": "106",
        "NCCL_IB_QPS_PER_CONNECTION": "4",
        "NCCL_BUFFSIZE": "8388608",
        "NCCL_ALGO": "Ring,Tree",
        "NCCL_SOCKET_IFNAME": "bond0",
        "NCCL_NET_GDR_LEVEL": "5",
    },
}


def profile(spec: BenchSpec) -> dict[str, str]:
    """What the spec names. A training's nodes keep the interface that each has found."""
    return NCCL_PROFILES[spec.nccl] if spec.nccl else {}


def environment(spec: BenchSpec) -> dict[str, str]:
    """What the benchmark sets for the processes that measure NCCL, on top of what their nodes have.

    NVLink SHARP stays off, as in preflight, unless the user chose: figures with it and without it do not compare.
    Support for graphs that overlap is off too; cluster/probes/sweep.py says why.
    """
    usual = {"NCCL_NVLS_ENABLE": "0", "NCCL_GRAPH_MIXING_SUPPORT": "0"}
    return {name: os.environ.get(name, value) for name, value in usual.items()} | profile(spec)
