"""Keys and tokens, read inside the process that needs them and nowhere written.

They live in the environment of the user's shell or in ~/.kosen/secrets.env (mode 0600, `NAME=value` lines), which a
shared home folder brings to every node.
"""

import hashlib
import hmac
import os
from pathlib import Path

from orchestrator.errors import ClusterNotReady, SpecError

SECRETS_FILE = Path("~/.kosen/secrets.env")


def find(name: str) -> str | None:
    """The secret `name` from the environment, else from the secrets file, else None."""
    return os.environ.get(name) or _read_file().get(name)


def load_into_environment() -> None:
    """Ray's worker_process_setup_hook: libraries that read tokens from the environment (HF_TOKEN) find them."""
    for name, value in _read_file().items():
        os.environ.setdefault(name, value)


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
    path = SECRETS_FILE.expanduser()
    try:
        if path.stat().st_mode & 0o077:
            raise SpecError(f"{path} can be read by others. Give: chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.removeprefix("export ").partition("=") for line in map(str.strip, lines) if not line.startswith("#"))
    return {name.strip(): value.strip().strip("'\"") for name, _, value in pairs if name.strip() and value}
