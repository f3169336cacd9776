"""What the probe of a ready cluster says of GPUs: a driver that does not answer is not a node without GPUs."""

import time
from pathlib import Path

import pytest

from cluster.head import readiness
from cluster.head.readiness import Expected, GpuProbe, _wrong

NODE: Expected = {"name": "node1", "ip": "10.0.0.1", "gpus": 2, "agent_http": 1}


def wrong(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("VLLM_HOST_IP", raising=False)
    return _wrong(NODE, GpuProbe().report())


def test_a_driver_that_does_not_answer_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "GPU_SECONDS", 0.3)
    [problem] = wrong(tmp_path, "exec sleep 60", monkeypatch)
    assert problem == "a worker on node1 cannot query its GPUs: nvidia-smi did not answer within 0.3 s"


def test_a_gpu_too_few_is_counted_and_no_driver_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = 'case $1 in *gpu=*) echo "0, NVIDIA H200, GPU-a, 580.1, 143771, 0, 0, 0x0";; esac'
    assert wrong(tmp_path, line, monkeypatch) == ["a worker on node1 sees 1 GPUs, expected 2"]
    assert wrong(tmp_path, "exit 9", monkeypatch) == []


def test_a_head_that_starts_later_than_the_probe_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([ConnectionError("no"), ConnectionError("no"), None])
    tried: list[str] = []

    def init(*, address: str, **_: object) -> None:
        tried.append(address)
        if error := next(answers, ConnectionError("gone")):
            raise error

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr(readiness, "CONNECT_PAUSE", 0.0)
    readiness.connect("10.0.0.1:6379", "10.0.0.1", time.monotonic() + 60)
    assert tried == ["10.0.0.1:6379"] * 3
    with pytest.raises(ConnectionError):
        readiness.connect("10.0.0.1:6379", "10.0.0.1", time.monotonic() - 1)
