"""Checks that the Ray cluster is complete: python -m cluster.head.readiness ADDRESS EXPECTED.json SECONDS IP

Waits until every expected node is alive with its resources and its job agent answers, then runs a probe actor on each
node that reports which GPUs it sees. The answer is one line of JSON; the exit code is 0 for whole, 4 for not.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.dashboard import get
from cluster.machine.network import host_port
from cluster.probes.gpus import read_gpus

GPU_SECONDS = 20.0  # for nvidia-smi, which preflight has woken by now
PROBE_SECONDS = 90.0  # a first worker process takes some seconds to start, tens on a cold file system
CONNECT_PAUSE = 1.0  # seconds between two tries to reach the head
AT_ONCE = 32  # agents that are asked at the same time; a silent one takes 3 seconds


class Expected(TypedDict):
    """What one node must turn out to be."""

    name: str
    ip: str
    gpus: int
    agent_http: int


class GpuProbe:
    """Runs as a Ray worker with all GPUs of its node."""

    def report(self) -> dict[str, Any]:
        gpus = read_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), GPU_SECONDS)
        problem = gpus.problem if gpus else None
        uuids = None if gpus is None or problem else [gpu.uuid for gpu in gpus.found]
        return {"uuids": uuids, "problem": problem, "host_ip": os.environ.get("VLLM_HOST_IP")}


def wait_for_nodes(expected: list[Expected], deadline: float) -> tuple[dict[str, str], list[str]]:
    """Ray's node ids by IP, and what is still missing when the time is over."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while True:
            alive = {node["NodeManagerAddress"]: node for node in ray.nodes() if node["Alive"]}
            problems = pool.map(_missing, expected, [alive] * len(expected))
            missing = [problem for problem in problems if problem]
            if not missing or time.monotonic() > deadline:
                return {ip: node["NodeID"] for ip, node in alive.items()}, missing
            time.sleep(0.1)


def _missing(node: Expected, alive: dict[str, Any]) -> str | None:
    if node["ip"] not in alive:
        return f"{node['name']} ({node['ip']}) has not joined"
    seen = int(alive[node["ip"]]["Resources"].get("GPU", 0))
    if seen != node["gpus"]:
        return f"{node['name']} has {seen} GPUs in Ray, expected {node['gpus']}"
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    address = host_port(node["ip"], node["agent_http"])
    if get(f"http://{address}/api/local_raylet_healthz", token) is None:
        return f"the job agent of {node['name']} does not answer at {address}"
    return None


def probe(expected: list[Expected], ids: dict[str, str]) -> tuple[dict[str, list[str] | None], list[str]]:
    """The GPU UUIDs that a worker sees, by node (None where there is no driver to ask), and what is wrong with them."""
    Remote = ray.remote(num_cpus=0)(GpuProbe)
    reports = {}
    for node in expected:
        where = NodeAffinitySchedulingStrategy(ids[node["ip"]], soft=False)
        worker = Remote.options(num_gpus=node["gpus"], scheduling_strategy=where).remote()
        reports[node["name"]] = worker.report.remote()
    ray.wait(list(reports.values()), num_returns=len(reports), timeout=PROBE_SECONDS)
    uuids: dict[str, list[str] | None] = {}
    problems = []
    for node in expected:
        try:
            seen = ray.get(reports[node["name"]], timeout=0)
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
            problems.append(f"no worker process starts on {node['name']}: {str(error).splitlines()[0]}")
            continue
        uuids[node["name"]] = seen["uuids"]
        problems += _wrong(node, seen)
    return uuids, problems + _doubles(uuids)


def _wrong(node: Expected, seen: dict[str, Any]) -> list[str]:
    problems = []
    if seen["problem"]:
        problems.append(f"a worker on {node['name']} cannot query its GPUs: {seen['problem']}")
    if seen["uuids"] is not None and len(seen["uuids"]) != node["gpus"]:
        problems.append(f"a worker on {node['name']} sees {len(seen['uuids'])} GPUs, expected {node['gpus']}")
    if seen["host_ip"] not in (None, node["ip"]):
        problems.append(f"{node['name']} is {node['ip']} for Ray and {seen['host_ip']} for vLLM")
    return problems


def _doubles(uuids: dict[str, list[str] | None]) -> list[str]:
    owners: dict[str, list[str]] = {}
    for name, seen in uuids.items():
        for uuid in seen or []:
            owners.setdefault(uuid, []).append(name)
    return [f"{uuid} is seen {len(names)} times, on {', '.join(names)}" for uuid, names in owners.items() if names[1:]]


def connect(address: str, ip: str, deadline: float) -> None:
    """Connects to the head, which may need longer to start than this process to import Ray. Raises ConnectionError."""
    options = {"namespace": "kosen-ready", "log_to_driver": False, "logging_level": "ERROR", "_node_ip_address": ip}
    while True:
        try:
            ray.init(address=address, **options)
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(CONNECT_PAUSE)
        else:
            return


def main(argv: list[str]) -> int:
    address, file, seconds, ip = argv
    expected: list[Expected] = json.loads(Path(file).read_text(encoding="utf-8"))["nodes"]
    deadline = time.monotonic() + float(seconds)
    connect(address, ip, deadline)
    ids, problems = wait_for_nodes(expected, deadline)
    uuids: dict[str, list[str] | None] = {}
    if not problems:
        uuids, problems = probe(expected, ids)
    print(json.dumps({"problems": problems, "gpu_uuids": uuids}))
    return 4 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
