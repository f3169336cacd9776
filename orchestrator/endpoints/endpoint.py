"""An OpenAI-compatible endpoint: where it is, which model it serves, and which key belongs to it."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator import secrets
from orchestrator.errors import SpecError
from orchestrator.spec import Provider, refuse_login


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Travels to the batching actors; the key itself does not, each process looks it up by name."""

    base_url: str  # without a trailing slash, for example http://127.0.0.1:8000/v1
    model: str  # the id that /v1/models lists
    key_name: str | None = None  # environment variable or line of ~/.kosen/secrets.env
    serve_app: str | None = None  # our own deployment on Ray Serve; its key derives from the cluster's token

    def api_key(self) -> str | None:
        """The key to send, or None where the endpoint wants none."""
        if self.serve_app:
            return secrets.endpoint_key(self.serve_app)
        return secrets.find(self.key_name) if self.key_name else None

    def headers(self) -> dict[str, str]:
        key = self.api_key()
        return {"Authorization": f"Bearer {key}"} if key else {}


# Where each provider answers, and the name of the key that belongs there.
HOMES: dict[Provider, tuple[str | None, str | None]] = {
    "vllm": (None, None),
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "deepinfra": ("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "ollama": ("http://localhost:11434/v1", None),
    "compatible": (None, None),
}


# What people copy behind an API's address: the page that they asked by hand. Azure's own address ends in a plain
# /models, so that alone does not make a page.
_PAGE = re.compile(
    r"/(chat/completions|completions|responses|messages|embeddings)/*$|(?<=/v1)/(models(/[^/]+)?|chat)/*$"
)


def api_address(url: str) -> str:
    """The address of an API as requests need it: without a slash at its end, and without the page of one request.

    Raises SpecError for what is not an address, and for a user, a password or a query, none of which it repeats.
    """
    url = url.strip()
    refuse_login(url, "base_url")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        valid = valid and url.isprintable() and " " not in url
    except ValueError:
        valid = False
    if not valid:
        shown = url if url.isprintable() else repr(url)
        raise SpecError(f"base_url={shown} is not an address. Expected something like http://localhost:8000/v1")
    return _PAGE.sub("", url.rstrip("/")).rstrip("/")


def hostname(url: str | None) -> str | None:
    """The host of an address in small letters; None where there is none, or what is given is not an address."""
    try:
        return urlsplit(url or "").hostname
    except ValueError:
        return None


@dataclass(frozen=True)
class EndpointSpec:
    """What a spec says of one endpoint, the model's or the judge's."""

    role: str  # the key that names the model, `model` or `judge`, for messages
    provider: Provider
    model: str
    base_url: str | None
    key_name: str | None

    def endpoint(self) -> Endpoint | None:
        """The endpoint that is named, or None where vLLM is to be deployed. Raises SpecError if it cannot be known."""
        url, key_name = HOMES[self.provider]
        url = self.base_url or url
        if url is None and self.provider == "vllm":
            return None
        if url is None:
            raise SpecError(f"provider {self.provider} needs a base_url for {self.role}={self.model}")
        return Endpoint(api_address(url), self.model, self.key_name or key_name)
