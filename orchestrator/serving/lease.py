"""Takes leases on Serve applications: as long as a job holds one, no other job deletes the application."""

import uuid
from typing import Any

import ray

_leases: dict[str, Any] = {}  # our lease actors by application; dropping the handle ends the actor


def take(name: str) -> None:
    """An actor that lives as long as this job: others see by its name that the application is in use."""
    if name not in _leases:
        lease = f"{_prefix(name)}{uuid.uuid4().hex[:8]}"
        _leases[name] = ray.remote(_Lease).options(num_cpus=0, max_restarts=-1, name=lease).remote()


def drop(name: str) -> None:
    lease = _leases.pop(name, None)
    if lease is not None:
        ray.kill(lease)


def holders(name: str) -> list[str]:
    """The leases on an application, this job's too."""
    return [found for found in ray.util.list_named_actors() if str(found).startswith(_prefix(name))]


def _prefix(name: str) -> str:
    return f"kosen-lease-{name}-"


class _Lease:
    """Holds nothing but its own name."""
