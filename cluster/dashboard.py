"""Asking a cluster's own HTTP services, with its token."""

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

NODES = "/nodes?view=summary"  # answered from the dashboard's memory, up to 7 s old
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a web proxy cannot know these addresses


def get(url: str, token: Path, *, timeout: float = 3) -> bytes | None:
    """What `url` answers to the token in the file `token`; None without an answer, or with another status than 200."""
    return _call(urllib.request.Request(url), token, timeout)


def get_json(url: str, token: Path, *, timeout: float = 3) -> Any:
    """The JSON that `url` answers, or None."""
    answer = get(url, token, timeout=timeout)
    try:
        return json.loads(answer) if answer else None
    except ValueError:
        return None


def node_summaries(answer: Any) -> list[dict[str, Any]]:
    """The nodes in an answer to NODES, dead ones too; a node that came back is there twice."""
    return list(answer.get("data", {}).get("summary", [])) if answer else []


def alive_ips(answer: Any) -> list[str]:
    """The addresses of the living nodes in an answer to NODES."""
    raylets = [node.get("raylet", {}) for node in node_summaries(answer)]
    return [raylet["nodeManagerAddress"] for raylet in raylets if raylet.get("state") == "ALIVE"]


def post(url: str, token: Path, body: object = None, *, timeout: float = 10) -> bytes | None:
    """What `url` answers to a POST of `body` as JSON, or None."""
    return _call(_post_request(url, body), token, timeout)


def get_status(url: str, token: Path, *, timeout: float = 3) -> int | None:
    """The HTTP status that `url` answers to the token in the file `token`, or None: without an answer, and for what
    can be no address or no token."""
    try:
        return _status(urllib.request.Request(url), token, timeout)
    except ValueError:
        return None


def post_status(url: str, token: Path, body: object = None, *, timeout: float = 10) -> int | None:
    """The HTTP status of a POST of `body` as JSON, or None without an answer."""
    return _status(_post_request(url, body), token, timeout)


def _post_request(url: str, body: object) -> urllib.request.Request:
    data = b"" if body is None else json.dumps(body).encode()
    return urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"}, method="POST")


def _call(request: urllib.request.Request, token: Path, timeout: float) -> bytes | None:
    try:
        return _open(request, token, timeout)
    except (OSError, HTTPException):  # refused, reset, cut short, timed out, 4xx and 5xx, or no token file
        return None


def _status(request: urllib.request.Request, token: Path, timeout: float) -> int | None:
    try:
        _open(request, token, timeout)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, HTTPException):
        return None
    return 200


def _open(request: urllib.request.Request, token: Path, timeout: float) -> bytes:
    request.add_header("Authorization", f"Bearer {token.read_text(encoding='utf-8').strip()}")
    with DIRECT.open(request, timeout=timeout) as response:
        return bytes(response.read())
