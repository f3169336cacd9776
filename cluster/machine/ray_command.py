"""The `ray start` of one node: every port, limit and folder given, nothing left to what Ray sees of the machine."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

JOB_STOP_SECONDS = 60  # Ray kills a stopped job 3 s after its signal: too short for a checkpoint
SLOW_START = "timed out during startup"  # Ray gives its own parts 30 s; the next try finds them in the machine's cache
# What a batch step leaves behind, beside its scheduler's own variables, makes MPI, torch and others believe that they
# run as its tasks.
STEP_VARIABLES = ("PMI_", "PMIX_", "OMPI_")
OF_ANOTHER = ("RAY_ADDRESS", "RAY_AUTH_TOKEN")  # cluster
# A scheduler may set the GPUs of a step for every vendor's libraries; verl refuses to start where both are set.
OF_OTHER_VENDORS = ("ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL")


@dataclass(frozen=True, slots=True)
class RayNode:
    """One node of a Ray cluster as it is to be started."""

    ip: str
    ports: Mapping[str, int]
    temp_dir: str
    token: Path
    cpus: int
    gpus: int
    object_store: int  # bytes
    memory: int | None = None  # bytes; None leaves it to Ray
    head: str | None = None  # host:port of the head's GCS; None: this is the head
    job_stop_seconds: int = JOB_STOP_SECONDS


def ray_command(node: RayNode) -> list[str]:
    """The command that runs the node in the foreground."""
    ports = node.ports
    options: dict[str, object] = {
        "node-ip-address": node.ip,
        "node-manager-port": ports["node_manager"],
        "object-manager-port": ports["object_manager"],
        "min-worker-port": ports["worker_min"],
        "max-worker-port": ports["worker_max"],
        "dashboard-agent-listen-port": ports["agent_http"],
        "dashboard-agent-grpc-port": ports["agent_grpc"],
        "runtime-env-agent-port": ports["runtime_env_agent"],
        "metrics-export-port": ports["metrics_export"],
        "num-cpus": node.cpus,
        "num-gpus": node.gpus,
        "object-store-memory": node.object_store,
        "temp-dir": node.temp_dir,
    }
    if node.memory is not None:
        options["memory"] = node.memory
    if node.head:
        options["address"] = node.head
    else:
        options |= {
            "port": ports["gcs"],
            "ray-client-server-port": ports["ray_client"],
            "dashboard-host": node.ip,
            "dashboard-port": ports["dashboard"],
        }
    role = [] if node.head else ["--head"]
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *role]
    return [*ray, "--block", "--disable-usage-stats", "--log-color=false"] + [
        f"--{option}={value}" for option, value in options.items()
    ]


def ray_environment(base: Mapping[str, str], node: RayNode) -> dict[str, str]:
    """What the node's processes inherit. RAY_TMPDIR is also the mark by which they are found when they are stopped."""
    left_out = (*OF_ANOTHER, *(OF_OTHER_VENDORS if "CUDA_VISIBLE_DEVICES" in base else ()))
    inherited = {k: v for k, v in base.items() if not k.startswith(STEP_VARIABLES) and k not in left_out}
    return inherited | {
        # `ray job submit -- python …` means the Python that Ray runs on.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(node.token),
        "RAY_TMPDIR": node.temp_dir,
        "TMPDIR": node.temp_dir,  # what Ray's parts and the jobs leave behind goes with it
        "AUTOSCALER_METRIC_PORT": str(node.ports["autoscaler_metrics"]),
        "DASHBOARD_METRIC_PORT": str(node.ports["dashboard_metrics"]),
        "RAY_JOB_STOP_WAIT_TIME_S": str(node.job_stop_seconds),
        # The first driver would make Ray start a worker a core, which no job here can use: theirs have a runtime_env.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # a driver under `uv run` would make every worker install again
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # `down` means now; jobs are stopped before it, where they should
        "PYTHONUNBUFFERED": "1",
        **({} if node.gpus else {"VLLM_TARGET_DEVICE": "cpu"}),  # the CPU build does not find its platform by itself
    }


def client_environment(token: Path) -> dict[str, str]:
    """What a process needs that connects to a cluster with this token; no other cluster's address is left in it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return kept | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
