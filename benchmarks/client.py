"""CPU that a request costs the client, at 512 in flight: Kosen's ChatClient beside AsyncOpenAI.

The openai package moved from httpx to its successor httpx2 and still takes an httpx client, so both are measured.
All ask the same stub server, each in a process of its own, in turns. The stub answers after 0.2 s, so the window stays
full. What is counted is user and system time of the client's process, after a warm-up that opens the connections.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.stub import running  # noqa: E402

WINDOW = 512
LATENCY = 0.2  # seconds
ROUNDS = 3
REQUESTS = {"kosen": 10_000, "openai_httpx": 2_000, "openai_httpx2": 2_000}  # a round: seconds of CPU for each
LABELS = {
    "kosen": "ChatClient (aiohttp)",
    "openai_httpx": "AsyncOpenAI (httpx)",
    "openai_httpx2": "AsyncOpenAI (httpx2)",
}
MESSAGES = [{"role": "system", "content": "Answer the question. " * 20}, {"role": "user", "content": "Why? " * 300}]
OPTIONS: dict[str, Any] = {"temperature": 0.0, "max_tokens": 8192}

Ask = Callable[[], Awaitable[None]]


async def measure_kosen(base_url: str) -> float:
    from orchestrator.asking.client import ChatClient
    from orchestrator.endpoints.endpoint import Endpoint

    client = ChatClient(Endpoint(base_url, "stub"), window=WINDOW, request_timeout=60)

    async def ask() -> None:
        outcome = await client.ask(MESSAGES, OPTIONS)
        if outcome.status != "ok":
            raise SystemExit(f"the stub was asked and gave {outcome}")

    seconds = await cpu_per_request(ask, REQUESTS["kosen"])
    await client.close()
    return seconds


async def measure_openai_httpx(base_url: str) -> float:
    import httpx

    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100)  # the openai package's own
    return await measure_openai(base_url, "openai_httpx", httpx.AsyncClient(limits=limits, timeout=60))


async def measure_openai_httpx2(base_url: str) -> float:
    return await measure_openai(base_url, "openai_httpx2", None)  # what the package takes by itself


async def measure_openai(base_url: str, name: str, http_client: Any) -> float:
    from openai import AsyncOpenAI

    options: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": 60, "http_client": http_client}
    async with AsyncOpenAI(base_url=base_url, **options) as client:

        async def ask() -> None:
            await client.chat.completions.create(model="stub", messages=MESSAGES, **OPTIONS)  # type: ignore[arg-type]

        return await cpu_per_request(ask, REQUESTS[name])


MEASURES = {
    "kosen": measure_kosen,
    "openai_httpx": measure_openai_httpx,
    "openai_httpx2": measure_openai_httpx2,
}


async def cpu_per_request(ask: Ask, requests: int) -> float:
    """Seconds of CPU a request, with WINDOW of them in flight."""
    await in_flight(ask, 2 * WINDOW)
    before = time.process_time()
    await in_flight(ask, requests)
    return (time.process_time() - before) / requests


async def in_flight(ask: Ask, requests: int) -> None:
    left = iter(range(requests))

    async def worker() -> None:
        for _ in left:
            await ask()

    await asyncio.gather(*(worker() for _ in range(WINDOW)))


def in_turns(base_url: str) -> dict[str, list[float]]:
    """Milliseconds of CPU a request, one figure a round."""
    figures: dict[str, list[float]] = {name: [] for name in REQUESTS}
    for _ in range(ROUNDS):
        for name in figures:
            command = [sys.executable, __file__, "--measure", name, "--base-url", base_url]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600)
            figures[name].append(round(1000 * float(done.stdout), 3))
    return figures


def report(figures: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in figures.items()}
    return {
        "in_flight": WINDOW,
        "latency_seconds": LATENCY,
        "requests": REQUESTS,
        "cpu_ms_per_request": medians,
        "rounds": figures,
        "ratio": {name: round(median / medians["kosen"], 1) for name, median in medians.items()},
    }


def print_table(result: dict[str, Any]) -> None:
    print(f"CPU a request at {WINDOW} in flight, median of {ROUNDS} rounds")
    for name, label in LABELS.items():
        figures = f"{result['cpu_ms_per_request'][name]:7.2f} ms  {result['ratio'][name]:5.1f} x"
        print(f"  {label:<21} {figures}  rounds {result['rounds'][name]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--measure", choices=REQUESTS, help=argparse.SUPPRESS)  # the parts run in processes
    parser.add_argument("--base-url", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(asyncio.run(MEASURES[args.measure](args.base_url)))
    else:
        result = run_all()
        print(json.dumps(result, indent=2)) if args.json else print_table(result)


def run_all() -> dict[str, Any]:
    with running(LATENCY) as base_url:
        return report(in_turns(base_url))


if __name__ == "__main__":
    main()
