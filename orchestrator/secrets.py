"""Keys and tokens, read inside the process that needs them and nowhere written.

They live in the environment of the user's shell or in ~/.kosen/secrets.env (mode 0600, `NAME=value` lines), which a
shared home folder brings to every node.
"""

import hashlib
import hmac
import io
import os
from contextlib import suppress
from pathlib import Path

from dotenv import dotenv_values

from orchestrator.errors import ClusterNotReady, SpecError


def secrets_file() -> Path:
    """~/.kosen/secrets.env; KOSEN_HOME moves the folder, as it does for cluster states."""
    return Path(os.environ.get("KOSEN_HOME", "~/.kosen")).expanduser() / "secrets.env"


_handed: dict[str, str] = {}  # by the driver to this process, over Ray's own channel


def find(name: str) -> str | None:
    """The secret `name`: as the driver handed it on, else from the environment, else from the secrets file."""
    value = _handed.get(name) or os.environ.get(name) or _read_file().get(name)
    return value.strip() if value else None


def remember(secrets: dict[str, str]) -> None:
    """Keep what the driver knows: a cluster's workers have the environment of whoever started the cluster."""
    _handed.update(secrets)


def load_into_environment() -> None:
    """Libraries that read tokens from the environment (HF_TOKEN) find them. Raises SpecError for an open file."""
    for name, value in _read_file().items():
        os.environ.setdefault(name, value)


def set_up_worker() -> None:
    """Ray's worker_process_setup_hook. An error here would keep the worker from starting; the driver has told it."""
    with suppress(SpecError):
        load_into_environment()


def endpoint_key(app: str) -> str:
    """The API key of our Serve application `app`, derived from the cluster's token so that nothing new is stored."""
    return hmac.new(_cluster_token().encode(), f"kosen-endpoint:{app}".encode(), hashlib.sha256).hexdigest()


def _cluster_token() -> str:
    token = os.environ.get("RAY_AUTH_TOKEN")
    if token:
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not path:
        raise ClusterNotReady("this cluster has no token (RAY_AUTH_TOKEN_PATH is not set), so endpoints have no key")
    return Path(path).expanduser().read_text(encoding="utf-8").strip()


def _read_file() -> dict[str, str]:
    path = secrets_file()
    try:
        if path.stat().st_mode & 0o077:
            raise SpecError(f"{path} can be read by others. Give: chmod 600 {path}")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not UTF-8 text. Write it again: a line NAME=value for each key") from None
    values = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return {name: value.strip() for name, value in values.items() if value and value.strip()}
