"""A view of the repository and of its Python environment that every user may read.

Both often lie below a home folder of mode 700. A bind mount does not ask for permissions on the way to its source, so
the nodes show them below <directory>/opt: `repository`, `python` (what the environment was made from) and `venv`.
"""

import os
import sys
import sysconfig
from pathlib import Path


def prepare(opt: Path, repository: Path) -> list[tuple[Path, Path]]:
    """Lay out `opt`; what a node has to bind there, as pairs of source and target."""
    packages = Path(sysconfig.get_path("purelib"))
    inside = opt / "venv" / "lib" / packages.parent.name / packages.name
    _write_environment(opt)
    base = Path(sys.base_prefix).resolve()
    return [*_readable(base, opt / "python"), *_readable(packages, inside), *_readable(repository, opt / "repository")]


def _write_environment(opt: Path) -> None:
    """A virtual environment as `python -m venv` makes it, with the scripts of the one that runs this."""
    executables = opt / "venv" / "bin"
    executables.mkdir(parents=True, exist_ok=True)
    python = opt / "python" / Path(sys.executable).resolve().relative_to(Path(sys.base_prefix).resolve())
    version = ".".join(map(str, sys.version_info[:3]))
    (opt / "venv" / "pyvenv.cfg").write_text(f"home = {python.parent}\nversion = {version}\n", encoding="utf-8")
    for name in ("python", "python3", python.name):
        _write_interpreter(executables / name, python)
    for script in (Path(sys.prefix) / "bin").iterdir():
        _copy_script(script, executables / script.name, opt / "venv")


def _write_interpreter(path: Path, python: Path) -> None:
    """A script in the place of a link: the path to libpython that is written into `python` may be a closed one.

    As `python` is called by the script's own name, it finds pyvenv.cfg, and sys.executable is the script.
    """
    libraries = f"{python.parent.parent}/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
    path.write_text(f'#!/bin/bash\nLD_LIBRARY_PATH={libraries} exec -a {path} {python} "$@"\n', encoding="utf-8")
    path.chmod(0o755)


def _copy_script(script: Path, target: Path, environment: Path) -> None:
    """`script`, pointed at `environment`, where it is text that names its own environment (`ray`, `activate`)."""
    content = b"" if script.is_symlink() or not script.is_file() else script.read_bytes()
    if sys.prefix.encode() in content and b"\0" not in content:
        target.write_bytes(content.replace(sys.prefix.encode(), str(environment).encode()))
        target.chmod(0o755)


def _readable(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """How to show `source` at `target`: whole where others may enter it, else entry by entry."""
    target.mkdir(parents=True, exist_ok=True)
    if source.stat().st_mode & 0o005 == 0o005:
        return [(source, target)]
    entries = [entry for entry in source.iterdir() if not entry.is_symlink() and (entry.is_dir() or entry.is_file())]
    return [(entry, mount_point(entry, target / entry.name)) for entry in entries if os.access(entry, os.R_OK)]


def mount_point(source: Path, target: Path) -> Path:
    """`target`, made a folder or an empty file as `source` is one, for `source` to be bound on it."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    return target
