"""Keys and tokens, read inside the process that needs them and nowhere written.

They live in the environment of the user's shell or in ~/.kosen/secrets.env (mode 0600, `NAME=value` lines), which a
shared home folder brings to every node.
"""

import hashlib
import hmac
import io
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from dotenv import dotenv_values

from cluster.files import expanded, kosen_home
from orchestrator.errors import ClusterNotReady, SpecError


def secrets_file() -> Path:
    """~/.kosen/secrets.env; KOSEN_HOME moves the folder, as it does for cluster states."""
    return kosen_home() / "secrets.env"


STRUCK_OUT = "[key struck out]"
LEAST_KEY = 8  # characters; what servers without keys are given (EMPTY, none, test) also stands in honest texts
LARGEST_FILE = 2**20  # bytes; a device or a log has more
_LEAST_TRACE = 12  # characters of a key that are enough to strike it out, or half of it where that is more

_handed: dict[str, str] = {}  # by the driver to this process, over Ray's own channel
_traces: dict[str, re.Pattern[str]] = {}  # of the keys that this process has used: from a part of a key to the whole


def find(name: str) -> str | None:
    """The secret `name`: as the driver handed it on, else from the environment, else from the secrets file."""
    value = _handed.get(name) or os.environ.get(name) or _read_file().get(name)
    return _watch(value.strip()) if value else None


def remember(secrets: dict[str, str]) -> None:
    """Keep what the driver knows: a cluster's workers have the environment of whoever started the cluster."""
    _handed.update(secrets)
    for value in secrets.values():
        _watch(value.strip())


def strike_out(text: str) -> str:
    """`text`, which comes from a server, without what looks like one of the keys that this process has used.

    That is a key as it is or as it stands in a URL, its first half with whatever follows (messages are cut short, or
    mask the rest), and its last half. Keys of fewer than LEAST_KEY characters are left.
    """
    for trace, pattern in _traces.items():
        if trace in text:
            text = pattern.sub(STRUCK_OUT, text)
    return text


def _watch(key: str) -> str:
    """From now on `strike_out` knows this key."""
    for form in {key, quote(key, safe="")}:
        size = max(min(len(form), _LEAST_TRACE), len(form) // 2)
        head, tail = form[:size], form[-size:]
        if len(form) >= LEAST_KEY and head not in _traces:
            _traces[head] = re.compile(rf"{re.escape(form)}|{re.escape(head)}[\w.~+/=*%-]*")
            _traces[tail] = re.compile(re.escape(tail))
    return key


def load_into_environment() -> None:
    """Libraries that read tokens from the environment (HF_TOKEN) find them. Raises SpecError for an open file."""
    for name, value in _read_file().items():
        os.environ.setdefault(name, value)


def set_up_worker() -> None:
    """Ray's worker_process_setup_hook. An error here would keep the worker from starting; the driver reports it."""
    with suppress(SpecError):
        load_into_environment()


def endpoint_key(app: str) -> str:
    """The API key of our Serve application `app`, derived from the cluster's token so that nothing new is stored."""
    return _watch(
        hmac.new(_watch(_cluster_token()).encode(), f"kosen-endpoint:{app}".encode(), hashlib.sha256).hexdigest()
    )


def _cluster_token() -> str:
    token = os.environ.get("RAY_AUTH_TOKEN")
    if token:
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not path:
        raise ClusterNotReady("this cluster has no token (RAY_AUTH_TOKEN_PATH is not set), so endpoints have no key")
    return expanded(path).read_text(encoding="utf-8").strip()


def _read_file() -> dict[str, str]:
    path = secrets_file()
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FILE:
            raise SpecError(f"{path} is not a secrets file. Expected a text with a line NAME=value for each key")
        if status.st_mode & 0o077:
            raise SpecError(f"{path} can be read by others. Give: chmod 600 {path}")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not UTF-8 text. Write it again: a line NAME=value for each key") from None
    if "\0" in text:
        raise SpecError(f"{path} holds a zero byte. Write it again: a line NAME=value for each key")
    values = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return {name: value.strip() for name, value in values.items() if value and value.strip()}
