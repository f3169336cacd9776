"""Says before anything is asked that a library which scores the answers is missing."""

from importlib.util import find_spec


def require_libraries(*names: str) -> None:
    """Raise ValueError where one of these cannot be imported; none is imported."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ValueError(f"its answers are scored by {', '.join(missing)}, not installed here. Run make install")
