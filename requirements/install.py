"""Make or renew `.venv` from a lock file. Standard library only: it runs before anything is installed.

python3 requirements/install.py [cpu|gpu]
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "kosen-lock"  # which lock the environment was made from
SUPPORTED = ("3.12", "3.11")


def main() -> None:
    given = sys.argv[1] if len(sys.argv) > 1 else ""
    profile = given or stamped_profile() or detect_profile()
    lock = ROOT / "requirements" / f"{profile}.txt"
    if not lock.exists():
        sys.exit(f"install: there is no profile {profile!r}. Give PROFILE=cpu or PROFILE=gpu")
    wanted = f"{profile} {hashlib.sha256(lock.read_bytes()).hexdigest()}"
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    started = time.monotonic()
    STAMP.unlink(missing_ok=True)
    if not (VENV / "bin" / "python").exists():
        run(find_python(), "-m", "venv", str(VENV))
    sync(find_uv(lock), lock, profile)
    STAMP.write_text(wanted)
    print(f"install: .venv holds the {profile} profile after {time.monotonic() - started:.0f} s")


def stamped_profile() -> str:
    """The profile that the environment has already: on a shared file system a login node must not change it."""
    return STAMP.read_text().split()[0] if STAMP.exists() else ""


def detect_profile() -> str:
    """The `gpu` profile where the NVIDIA driver lists a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True)
        gpus = [line for line in listed.stdout.splitlines() if line.startswith("GPU")]
        if listed.returncode == 0 and gpus:
            return announce("gpu", f"nvidia-smi lists {len(gpus)} GPU(s)")
    return announce("cpu", "nvidia-smi lists no GPU" if tool else "there is no nvidia-smi")


def announce(profile: str, reason: str) -> str:
    print(f"install: profile {profile}, because {reason} (PROFILE= overrides)")
    return profile


def find_python() -> str:
    """An interpreter of a supported version; a command of that name may exist and fail (pyenv's shims), so try it."""
    named = os.environ.get("PYTHON")
    candidates = [named] if named else [sys.executable, *(f"python{version}" for version in SUPPORTED)]
    code = "import sys; print(f'{sys.version_info[0]}.{sys.version_info[1]}')"
    for candidate in candidates:
        if shutil.which(candidate):
            answer = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
            if answer.stdout.strip() in SUPPORTED:
                return candidate
    sys.exit(
        f"install: found no Python {' or '.join(SUPPORTED)} (tried {', '.join(candidates)}). Give PYTHON=/path/to/it"
    )


def find_uv(lock: Path) -> str:
    """uv from the environment itself, installed there by pip at the version and hashes of the lock."""
    uv = VENV / "bin" / "uv"
    if not uv.exists():
        entry = re.search(r"^uv==.*?(?=^\S|\Z)", lock.read_text(), re.MULTILINE | re.DOTALL)
        if not entry:
            sys.exit(f"install: {lock} does not pin uv. Run: make lock")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as pinned:
            pinned.write(entry.group())
            pinned.flush()
            pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
            run(*pip, "install", "--require-hashes", "-r", pinned.name)
    return str(uv)


def sync(uv: str, lock: Path, profile: str) -> None:
    """Make the environment equal to the lock.

    The CPU build of torch is not on PyPI: uv takes it from PyTorch's own index, or from pip's find-links.
    """
    command = [uv, "pip", "sync", "--quiet", "--python", str(VENV / "bin" / "python"), "--require-hashes"]
    command.append("--compile-bytecode")  # once here, or by a dozen of Ray's processes at once in the first run
    find_links = os.environ.get("PIP_FIND_LINKS", "").split()
    for place in find_links:
        command += ["--find-links", place]
    if profile == "cpu" and not find_links:
        command += ["--torch-backend", "cpu"]
    environment = dict(os.environ)
    if "PIP_INDEX_URL" in os.environ:  # a lab's mirror, set up for pip
        environment.setdefault("UV_DEFAULT_INDEX", os.environ["PIP_INDEX_URL"])
    run(*command, str(lock), env=environment)


def run(*command: str, env: "dict[str, str] | None" = None) -> None:
    code = subprocess.run(command, env=env).returncode
    if code:
        sys.exit(f"install: {' '.join(command[:4])} … failed with exit code {code}, see above")


if __name__ == "__main__":
    main()
