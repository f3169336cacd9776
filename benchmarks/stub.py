"""The least HTTP server that answers like an OpenAI-compatible endpoint, for clients and paths to be measured at.

Prints its port, and serves until it is ended. It answers every POST with the same chat completion after `--latency`
seconds, with `--verdict` that of a judge, and every GET with a list of one model, `stub`.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ANSWER = {"content": "Because it follows. " * 100, "reasoning": "Hm. " * 300}
VERDICT = {"extracted_final_answer": "None", "reasoning": "It differs.", "correct": "no", "confidence": 90}
MODELS = {"object": "list", "data": [{"id": "stub", "object": "model", "created": 0, "owned_by": "stub"}]}


class Stub(asyncio.Protocol):
    def __init__(self, latency: float, reply: bytes, models: bytes) -> None:
        self._latency, self._reply, self._models = latency, reply, models

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if found and head.startswith(b"GET"):
            self._received = b""
            self._transport.write(self._models)  # type: ignore[attr-defined]
        elif found and len(rest) >= int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
            self._received = b""
            loop = asyncio.get_running_loop()
            loop.call_later(self._latency, self._transport.write, self._reply)  # type: ignore[attr-defined]


def http(body: Mapping[str, object]) -> bytes:
    text = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(text) + text


def completion(message: dict[str, str]) -> dict[str, object]:
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": [{"index": 0, "message": {"role": "assistant"} | message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 400, "completion_tokens": 600, "total_tokens": 1000},
    }


async def serve(latency: float, message: dict[str, str]) -> None:
    reply, models = http(completion(message)), http(MODELS)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Stub(latency, reply, models), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def running(latency: float, *, verdict: bool = False) -> Iterator[str]:
    """Its base URL, in a process of its own."""
    command = [sys.executable, str(Path(__file__)), f"--latency={latency}", *(["--verdict"] if verdict else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as stub:
        try:
            assert stub.stdout
            yield f"http://127.0.0.1:{int(stub.stdout.readline())}/v1"
        finally:
            stub.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--verdict", action="store_true")
    args = parser.parse_args()
    asyncio.run(serve(args.latency, {"content": json.dumps(VERDICT)} if args.verdict else ANSWER))


if __name__ == "__main__":
    main()
