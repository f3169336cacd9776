"""An OpenAI-compatible endpoint: where it is, which model it serves, and which key belongs to it."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator import secrets
from orchestrator.errors import SpecError
from orchestrator.spec import Provider


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


@dataclass(frozen=True)
class Wish:
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
        try:
            valid = urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
        except ValueError:
            valid = False
        if not valid:
            raise SpecError(f"base_url={url} is no address. Expected something like http://localhost:8000/v1")
        return Endpoint(url.rstrip("/"), self.model, self.key_name or key_name)
