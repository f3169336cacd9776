"""A model's folder before it leaves this machine: which files belong to it, why others stay, whether it is whole."""

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from cluster.keys import holds_key
from orchestrator.errors import SpecError
from orchestrator.training.checkpoints.model_files import TOKENIZERS, has_tokenizer

# Matched with the name in lower case, its folders included: * takes in slashes too.
LEFT_OUT = {
    "a cache": (".cache/*", "*/.cache/*", "__pycache__/*", "*/__pycache__/*", ".ipynb_checkpoints/*", "*.pyc"),
    "version control": (".git/*", "*/.git/*", ".gitignore", ".svn/*", ".hg/*"),
    "a temporary file": (
        ".nfs*",
        "*/.nfs*",
        ".fuse_hidden*",
        "*.tmp",
        "*.lock",
        "*.incomplete",
        "*.part",
        "*.swp",
        "*~",
        "*.draft/*",
        "*.bak",
        "*.orig",
    ),
    "of the training": (
        "*optim_world_size_*",
        "*extra_state_world_size_*",
        "*model_world_size_*",
        "*optimizer.pt",
        "*optimizer.bin",
        "*scheduler.pt",
        "*rng_state*.pth",
        "*training_args.bin",
    ),
    "a log": (
        *("wandb/*", "*/wandb/*", "logs/*", "*/logs/*", "*.log", "*.log.*", "*events.out.tfevents*"),
        *("*.out", "*.o[0-9]*", "*.e[0-9]*", "*.err", "*.stdout", "*.stderr", "*_history"),
        *("mlruns/*", "*/mlruns/*", "lightning_logs/*", "*/lightning_logs/*", "swanlog/*", ".neptune/*", ".aim/*"),
    ),
    "of this machine": (
        *("kosen*.json", "*/kosen*.json", "*.ds_store", "*thumbs.db", ".vscode/*", ".idea/*", ".viminfo"),
        *(".venv/*", "venv/*", "node_modules/*"),
    ),
}
# The same of a file's own name. States of an optimizer and its like: of torch, DeepSpeed, accelerate and verl.
STATES = (
    *("optim*.pt", "optim*.pth", "optim*.bin", "optim*.safetensors", "*.optim.*", "*_optim_states.pt", "opt_state*"),
    *("*_model_states.pt", "*.distcp", "scaler.pt", "data.pt", "dataloader*.pt", "random_states_*.pkl"),
)
DUMPS = ("core", "core.[0-9]*", "*.core", "*.dmp", "*.hprof", "*.stackdump", "*.nsys-rep", "*.ncu-rep", "*.prof")
SECRET_FOLDERS = (
    ".ssh",
    ".aws",
    ".azure",
    ".gnupg",
    ".kube",
    ".docker",
    ".gcloud",
    ".kosen",
    ".password-store",
    "secrets",
    ".secrets",
)
SECRETS = (
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.pem", "*.key", "*.ppk", "*.p12", "*.pfx", "*.p8", "*.jks"),
    *("*.keystore", "*.kdbx", "*.gpg", "*.asc", "*.ovpn", "*.env", ".env*", "*.env.*", ".envrc", ".netrc", "_netrc"),
    *(".npmrc", ".pypirc", ".pgpass", ".my.cnf", ".boto", ".s3cfg", ".dockercfg", ".htpasswd", ".git-credentials"),
    *("*credential*", "*secret*", "*password*", "*passwd*", "*api_key*", "*apikey*", "*api-key*", "*private_key*"),
    *("token", "*.token", "token.*", "*_token", "*-token", "*token.txt", "stored_tokens", "*service_account*.json"),
    *(
        "*service-account*.json",
        "*_key",
        "*-key",
        "*_key.txt",
        "*-key.txt",
        "*.tfstate",
        "kubeconfig*",
        "authorized_keys",
        "known_hosts",
    ),
)
LARGEST_TEXT = 2**20  # bytes that are searched for keys; models' own texts, tokenizers, are larger or hold none
POINTER = b"version https://git-lfs"
WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")
LONGEST_HEADER = 2**27  # bytes of a safetensors header; the library itself takes 100 MB


@dataclass(frozen=True)
class UploadPlan:
    """The files of a folder with their sizes in bytes, and why others stay."""

    files: dict[str, int]
    left_out: dict[str, str]

    @property
    def total(self) -> int:
        return sum(self.files.values())


def survey(folder: Path, any_folder: bool) -> UploadPlan:
    """What of `folder` may be published. Raises SpecError unless it is a model's, and a whole one."""
    if not folder.is_dir():
        raise SpecError(f"there is no folder {folder}")
    files: dict[str, int] = {}
    left_out: dict[str, str] = {}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if reason := _reason(folder, path, name):
            left_out[name] = reason
        else:
            files[name] = path.stat().st_size
    if not any_folder:
        check_model(folder, files)
    return UploadPlan(files, left_out)


def _files(folder: Path) -> Iterator[Path]:
    """Files and links, those to folders too; what is not a file at all, a pipe for example, belongs to no model."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or path.is_file():
            yield path


def _reason(folder: Path, path: Path, name: str) -> str | None:
    """Why a file stays here; None: it may go."""
    lower = name.lower()
    for why, patterns in LEFT_OUT.items():
        if any(fnmatch(lower, pattern) for pattern in patterns):
            return why
    *above, own = lower.split("/")
    if any(fnmatch(own, pattern) for pattern in SECRETS) or any(part in SECRET_FOLDERS for part in above):
        return "may hold secrets"
    if any(fnmatch(own, pattern) for pattern in STATES):
        return "of the training"
    if any(fnmatch(own, pattern) for pattern in DUMPS):
        return "a dump of a program"
    if path.is_symlink() and not _stays_inside(folder, path):
        return "a link out of the folder, or to nothing"
    if path.stat().st_size <= LARGEST_TEXT and not own.endswith(WEIGHTS) and holds_key(path.read_text("latin-1")):
        return "holds what looks like a key"
    return None


def _stays_inside(folder: Path, link: Path) -> bool:
    """The hub's own cache keeps a snapshot's files as links to `blobs` beside it: those are the model's."""
    try:
        target, root = link.resolve(), folder.resolve()
    except (OSError, RuntimeError):  # a circle
        return False
    blobs = root.parents[1] / "blobs" if root.parent.name == "snapshots" else root
    return target.is_file() and (target.is_relative_to(root) or target.is_relative_to(blobs))


def check_model(folder: Path, files: dict[str, int]) -> None:
    """Raise SpecError unless `files` of `folder` are a model that loads: config, weights and tokenizer, all of them."""
    if (folder / "fsdp_config.json").exists() or (folder / "actor" / "fsdp_config.json").exists():
        raise SpecError(f"{folder} is a checkpoint of verl. Make a model of it first: python -m jobs.merge run=…")
    weights = [name for name in files if name.endswith(WEIGHTS) and "/" not in name]
    adapter = "adapter_config.json" in files
    if all(name.endswith(".gguf") for name in weights) and weights:  # config and tokenizer are inside
        _check_weights(folder, weights)
        return
    if "config.json" not in files and not adapter:
        raise SpecError(f"{folder} is not a model folder: it has no config.json. If intended, add any_folder=true")
    for name in ("config.json", "adapter_config.json"):
        if name in files:
            _check_config(folder / name)
    if not weights:
        raise SpecError(f"{folder} has no weights ({', '.join(WEIGHTS)}). If intended, add any_folder=true")
    _check_shards(folder, files)
    _check_weights(folder, weights)
    _check_tokenizer(folder, files)
    if not adapter and not has_tokenizer(files):
        raise _half(folder, f"it has no tokenizer ({', '.join(TOKENIZERS[:3])}, …)")


def _check_config(path: Path) -> None:
    config = _json(path)
    known = ("model_type", "architectures", "peft_type", "_class_name")
    if not isinstance(config, dict) or not any(config.get(name) for name in known):
        raise _half(path.parent, f"{path.name} names no model ({' or '.join(known[:2])})")


def _check_tokenizer(folder: Path, files: dict[str, int]) -> None:
    for name in TOKENIZERS:
        if name in files and not files[name]:
            raise _half(folder, f"{name} is empty")
        if name in files and _start(folder / name, len(POINTER)) == POINTER:
            raise _half(folder, f"{name} is a pointer of Git LFS; `git lfs pull` brings the file")
    if "tokenizer.json" in files and not isinstance(_json(folder / "tokenizer.json"), dict):
        raise _half(folder, "tokenizer.json holds no tokenizer")


def _start(path: Path, size: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(size)


def _check_shards(folder: Path, files: dict[str, int]) -> None:
    """Every shard that an index names, and every one that a shard's own name counts."""
    for index in (name for name in files if name.endswith(".index.json")):
        content = _json(folder / index)
        shards = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(shards, dict) or not shards:
            raise _half(folder, f"{index} has no weight_map")
        for shard in sorted({str(name) for name in shards.values()}):
            if shard not in files:
                raise _half(folder, f"{index} names {shard}, which is not there")
    for name in files:
        if match := SHARD.fullmatch(name):
            for number in range(1, int(match[3]) + 1):
                wanted = f"{match[1]}-{number:05}-of-{match[3]}{match[4]}"
                if wanted not in files:
                    raise _half(folder, f"{wanted} is missing beside {name}")


def _check_weights(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        wrong = _safetensors_fault(path) if name.endswith(".safetensors") else _other_fault(path)
        if wrong:
            raise _half(folder, f"{name} {wrong}")


def _safetensors_fault(path: Path) -> str | None:
    """What is wrong with a file by its header, which says how long the whole is (huggingface/safetensors, Format)."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, LONGEST_HEADER):
            return "is cut short or not a safetensors file"
        try:
            header = json.loads(stream.read(length))
            ends = [int(one["data_offsets"][1]) for name, one in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return "has a damaged header"
    if not ends:
        return "holds no tensors"
    return None if size == 8 + length + max(ends) else f"has {size:,} bytes, its header says {8 + length + max(ends):,}"


def _other_fault(path: Path) -> str | None:
    """PyTorch writes zip archives, whose index stands at the end; its older files and GGUF have a mark in front."""
    with path.open("rb") as stream:
        start = stream.read(4)
    if path.suffix == ".gguf":
        return None if start == b"GGUF" and path.stat().st_size > 24 else "is cut short or not a GGUF file"
    if start[:2] == b"PK":
        return None if zipfile.is_zipfile(path) else "is cut short"
    return None if start[:1] == b"\x80" and path.stat().st_size > 64 else "is empty or not a file of PyTorch"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _half(path.parent, f"{path.name} is not JSON ({str(error)[:80] or type(error).__name__})") from None


def _half(folder: Path, wrong: str) -> SpecError:
    return SpecError(f"{folder} does not hold a whole model: {wrong}. Fix it, or add any_folder=true if intended")
