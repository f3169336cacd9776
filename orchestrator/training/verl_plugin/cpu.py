"""verl on CPUs: a platform, gloo in place of nccl, CPUs counted in place of GPUs, and a rollout without vLLM."""

import os
import resource
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

BACKEND = "cpu:gloo"


class CpuDevice(types.ModuleType):
    """What `torch.cuda` is to verl, for CPUs; memory is that of the process. The rest is `torch.cpu`'s own."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        return False  # verl asks this before it uses what only accelerators have

    def device_count(self) -> int:
        return 1

    def current_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_name(self, *_: Any) -> str:
        return "CPU"

    def empty_cache(self) -> None: ...

    def ipc_collect(self) -> None: ...

    def memory_allocated(self, *_: Any) -> int:
        return int(psutil.Process().memory_info().rss)

    def max_memory_allocated(self, *_: Any) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux gives KiB

    memory_reserved = memory_allocated
    max_memory_reserved = max_memory_allocated

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_: Any) -> None:
        torch.set_rng_state(state)


class CpuPlatform(PlatformBase):
    """All that verl asks a platform for."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = CpuDevice("verl_cpu_device")

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:  # an index elsewhere; torch takes both
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "CPU"

    def ray_resource_options(self, num_gpus: float) -> dict[str, Any]:
        return {"num_cpus": num_gpus}

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


def install() -> None:
    """To be called while verl is being imported, before its modules take copies of what is replaced here."""
    PlatformRegistry.register(platform="cpu")(CpuPlatform)
    os.environ["VERL_ENGINE_DEVICE"] = "cuda"  # verl's FSDP engines run on CPUs, but are not registered for them
    torch.Tensor.pin_memory = lambda self, *_, **__: self  # the reference model's offloading pins, which needs CUDA
    _use_gloo()
    _count_cpus()
    _add_rollout()


def _use_gloo() -> None:
    """verl asks for gloo on "cpu" and the platform's backend on its device, which torch refuses when both are "cpu"."""
    from verl.utils import distributed

    initialize: Any = distributed.initialize_global_process_group_ray

    def initialize_in_ray(timeout_second: float | None = None, backend: str | None = None) -> None:
        initialize(timeout_second, BACKEND)

    def initialize_in_place(timeout_second: float = 36000) -> tuple[int, int, int]:
        initialize(timeout_second, BACKEND)
        return int(os.environ["LOCAL_RANK"]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    distributed.initialize_global_process_group_ray = initialize_in_ray
    distributed.initialize_global_process_group = initialize_in_place


def _count_cpus() -> None:
    """verl counts GPUs to see whether its processes fit into the cluster."""
    from verl.single_controller.ray import base

    def check(self: Any) -> None:
        free = ray.available_resources().get("CPU", 0)
        wanted = self.get_n_gpus()
        if free < wanted:
            raise ValueError(f"the cluster has {free:.0f} free CPUs, the training wants {wanted} processes")

    manager: Any = base.ResourcePoolManager
    manager._check_resource_available = check


def _add_rollout() -> None:
    """The name `hf_cpu` in both of verl's lists, loaded when it is used."""
    from verl.workers.rollout import base, replica

    def load() -> Any:
        from orchestrator.training.verl_plugin.rollout import HFReplica

        return HFReplica

    base._ROLLOUT_REGISTRY["hf_cpu", "async"] = "orchestrator.training.verl_plugin.rollout.HFRollout"
    replica.RolloutReplicaRegistry.register("hf_cpu", load)
