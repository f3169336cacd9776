"""Asking vLLM without us, inside a task that holds the GPU: the engine alone, and its server with the seed's client."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from cluster.dashboard import DIRECT
from jobs.benchmarking.parts.processes import stopped
from orchestrator.errors import EndpointDown

HOST = "127.0.0.1"
# What `vllm serve` starts. That command asks for a package named vllm, and the CPU build's has another name.
SERVER = ("-m", "vllm.entrypoints.openai.api_server")
STOP_SECONDS = 30.0
POLL = 0.5


class Figures(NamedTuple):
    """What one way of asking gave."""

    seconds: float
    output_tokens: int
    failed: int
    client_cpu: float | None  # seconds of CPU


@dataclass(frozen=True)
class RequestOrder:
    """The same for every way. `warm_up`: so many of the requests are asked before it counts."""

    model: str
    options: dict[str, Any]  # vLLM's engine options
    messages: list[list[dict[str, Any]]]
    output_tokens: int
    warm_up: int
    seconds: float  # for all of it

    def first(self, requests: int) -> "RequestOrder":
        return replace(self, messages=self.messages[:requests])

    @property
    def sampling(self) -> dict[str, Any]:
        return {"max_tokens": self.output_tokens, "ignore_eos": True, "temperature": 0.0}


def run_engine(order: RequestOrder) -> Figures:
    """All requests at once through `LLM.chat`."""
    from vllm import LLM, SamplingParams

    engine = LLM(order.model, **order.options)
    sampling: Any = SamplingParams(**order.sampling)
    messages: Any = order.messages
    try:
        engine.chat(messages[: order.warm_up], sampling, use_tqdm=False)
        began = time.perf_counter()
        answers = engine.chat(messages, sampling, use_tqdm=False)
        seconds = time.perf_counter() - began
    finally:
        engine.llm_engine.engine_core.shutdown()  # its process holds the GPU's memory, which the next way needs
    return Figures(seconds, sum(len(answer.outputs[0].token_ids) for answer in answers), 0, None)


def run_vllm_serve(order: RequestOrder, workers: int) -> Figures:
    """`vllm serve` beside a client like the seed's predict.py: AsyncOpenAI over httpx, `workers` requests in flight.

    Raises EndpointDown with the end of the server's log where it does not start, and when it takes too long.
    """
    deadline = time.monotonic() + order.seconds
    with _server(order, deadline) as base_url:
        try:
            return asyncio.run(asyncio.wait_for(_ask_all(base_url, order, workers), deadline - time.monotonic()))
        except TimeoutError:
            raise EndpointDown(f"vllm serve had not answered everything after {order.seconds:.0f} s") from None


@contextmanager
def _server(order: RequestOrder, deadline: float) -> Iterator[str]:
    with closing(socket.socket()) as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    with tempfile.NamedTemporaryFile("r", suffix=".log") as log:
        command = [*SERVER, "--model", order.model, "--host", HOST, "--port", str(port)]
        with Path(log.name).open("wb") as out:
            server = subprocess.Popen(
                [sys.executable, *command, *flags(order.options)],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "VLLM_NO_USAGE_STATS": "1"},
            )
        with stopped(server, STOP_SECONDS):
            while not _is_up(f"http://{HOST}:{port}/health"):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise EndpointDown(f"vllm serve did not start. The end of its log:\n{log.read()[-2000:]}")
                time.sleep(POLL)
            yield f"http://{HOST}:{port}/v1"


def flags(options: dict[str, Any]) -> list[str]:
    """Engine options as `vllm serve` takes them on its command line."""
    found = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return found


def _is_up(url: str) -> bool:
    try:
        with DIRECT.open(url, timeout=10) as response:
            return bool(response.status == 200)
    except OSError:
        return False


async def _ask_all(base_url: str, order: RequestOrder, workers: int) -> Figures:
    import httpx
    from openai import AsyncOpenAI, OpenAIError

    slots = asyncio.Semaphore(workers)
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100)  # the openai package's own
    http_client: Any = httpx.AsyncClient(limits=limits, timeout=order.seconds, trust_env=False)
    client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=3, http_client=http_client)

    async def ask(messages: Any) -> int | None:
        """Tokens of an answer, None where there is none."""
        async with slots:
            try:
                answer = await client.chat.completions.create(
                    model=order.model,
                    messages=messages,
                    max_tokens=order.output_tokens,
                    temperature=0.0,
                    extra_body={"ignore_eos": True},
                )
            except OpenAIError:
                return None
        return answer.usage.completion_tokens if answer.usage else None

    async with client:
        await asyncio.gather(*map(ask, order.messages[: order.warm_up]))
        began, cpu = time.perf_counter(), time.process_time()
        tokens = await asyncio.gather(*map(ask, order.messages))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    answered = [count for count in tokens if count is not None]
    return Figures(seconds, sum(answered), len(tokens) - len(answered), cpu)
