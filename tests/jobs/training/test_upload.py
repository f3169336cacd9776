"""Uploads to a stand-in of the hub on this machine: what goes there, what stays, and what happens in between."""

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save

from orchestrator.errors import SpecError
from orchestrator.spec import load_spec
from orchestrator.training.checkpoints.model_folder import survey
from orchestrator.training.checkpoints.upload import UploadSpec
from tests.support.harness import run, start
from tests.support.scripted_hub import REPO, TOKEN, Hub, served_as_hub
from tests.support.tiny_model import make_tiny_model


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as server, served_as_hub(server, TOKEN, tmp_path, monkeypatch):
        yield server


def shard(name: str, value: float) -> bytes:
    return save({name: torch.full((1500,), value)})


FIRST, SECOND = shard("first", 1.0), shard("second", 2.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in two shards, with what else lies about in such folders. Sizes are multiples of 3, for base64."""
    contents = {
        "config.json": b'{"model_type":"qwen3"}\n ',
        "tokenizer.json": b"{}\n",
        "model-00001-of-00002.safetensors": FIRST,
        "model-00002-of-00002.safetensors": SECOND,
        "tokenizer/extra.json": b"[]\n",
        "weights.tmp": b"x",
        "optim_world_size_2_rank_0.pt": b"x",
        "wandb/run-1/log.txt": b"x",
        ".git/config": b"x",
        "kosen-merge.json": b"{}",
        "secrets.env": b"x",
    }
    for name, content in contents.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "model"


WANTED = {
    "config.json": 24,
    "tokenizer.json": 3,
    "model-00001-of-00002.safetensors": len(FIRST),
    "model-00002-of-00002.safetensors": len(SECOND),
    "tokenizer/extra.json": 3,
}


def refused(*arguments: str, code: int = 2) -> str:
    done = run("jobs.upload", *arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and TOKEN not in done.stderr + done.stdout
    return done.stderr


def test_a_dry_run_says_what_goes_and_what_stays(hub: Hub, folder: Path) -> None:
    done = run("jobs.upload", f"folder={folder}", f"repo={REPO}", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "(private)" in done.stdout and "in 5 files" in done.stdout
    assert "weights.tmp: a temporary file" in done.stdout and "secrets.env: may hold secrets" in done.stdout
    assert survey(folder, any_folder=False).files == WANTED
    assert not hub.tokens


def test_a_private_model_arrives_once(hub: Hub, folder: Path) -> None:
    done = run("jobs.upload", f"folder={folder}", f"repo={REPO}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/{REPO}"
    assert hub.private is True and hub.files == WANTED and len(hub.sent) == 2
    assert hub.tokens - {None} == {f"Bearer {TOKEN}"} and TOKEN not in done.stdout + done.stderr
    assert not (folder / ".cache" / "huggingface" / "upload").exists()
    again = run("jobs.upload", f"folder={folder}", f"repo={REPO}")
    assert again.returncode == 0 and len(hub.sent) == 2


def test_an_interrupted_upload_goes_on_where_it_was(hub: Hub, folder: Path) -> None:
    hub.block = hashlib.sha256(SECOND).hexdigest()
    process = start("jobs.upload", f"folder={folder}", f"repo={REPO}")
    assert hub.blocked.wait(120)
    assert len(hub.sent) == 1
    seen = psutil.Process(process.pid)
    assert TOKEN not in " ".join(seen.cmdline())
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "run the same command to resume" in err and TOKEN not in err
    hub.block = None
    done = run("jobs.upload", f"folder={folder}", f"repo={REPO}")
    assert done.returncode == 0, done.stderr
    assert hub.files == WANTED and len(hub.sent) == 2  # the first shard was not sent again


def test_notes_of_another_repository_are_not_believed(hub: Hub, folder: Path) -> None:
    """The client would take what it sent to one repository as sent to all."""
    hub.block = hashlib.sha256(SECOND).hexdigest()
    process = start("jobs.upload", f"folder={folder}", "repo=lab/other")
    assert hub.blocked.wait(120)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    hub.block, hub.private, hub.sent[:] = None, None, []
    done = run("jobs.upload", f"folder={folder}", f"repo={REPO}")
    assert done.returncode == 0, done.stderr
    assert hub.files == WANTED and len(hub.sent) == 2


def test_who_sees_the_model_is_never_a_surprise(hub: Hub, folder: Path) -> None:
    hub.private = False
    assert "exists and is public" in refused(f"folder={folder}", f"repo={REPO}")
    hub.private = True
    assert "exists and is private" in refused(f"folder={folder}", f"repo={REPO}", "public=true")
    assert hub.files == {}
    hub.private = None
    assert run("jobs.upload", f"folder={folder}", f"repo={REPO}", "public=true").returncode == 0
    assert hub.private is False


def test_what_the_hub_refuses(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.refuse = HTTPStatus.FORBIDDEN
    assert "the hub refuses HF_TOKEN for lab/model (403)" in refused(f"folder={folder}", f"repo={REPO}")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "the hub is not reachable" in refused(f"folder={folder}", f"repo={REPO}", code=4)
    monkeypatch.delenv("HF_TOKEN")
    assert "HF_TOKEN is not set" in refused(f"folder={folder}", f"repo={REPO}")
    assert "unknown key token" in refused(f"folder={folder}", f"repo={REPO}", "token=x")


def test_only_model_folders(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a")
    with pytest.raises(SpecError, match=r"no config.json. If intended, add any_folder=true"):
        survey(tmp_path / "notes", any_folder=False)
    assert survey(tmp_path / "notes", any_folder=True).files == {"a.txt": 1}
    for shard in folder.glob("*.safetensors"):
        shard.unlink()
    with pytest.raises(SpecError, match="has no weights"):
        survey(folder, any_folder=False)
    (folder / "fsdp_config.json").write_text("{}")
    with pytest.raises(SpecError, match=r"python -m jobs.merge"):
        survey(folder, any_folder=False)


STAYS = [
    *("id_rsa", "id_ed25519", "keys/id_ecdsa.pub", "server.PEM", "tls.key", "putty.ppk", "cert.p12", "store.jks"),
    *("vault.kdbx", "mail.gpg", ".env", ".env.local", "prod.env", ".envrc", ".netrc", ".npmrc", ".pypirc", ".pgpass"),
    *("credentials.json", "gcp-service-account.json", "client_secret.json", "passwords.txt", "openai_api_key"),
    *("token", "hf_token", "wandb-token", "token.txt", ".git-credentials", ".ssh/config", ".aws/config", "kubeconfig"),
    *("core", "core.12345", "java.hprof", "crash.dmp", "trace.nsys-rep", "train.log", "train.log.1", "logs/step1.txt"),
    *("optim.pt", "optimizer.safetensors", "checkpoint-500/optimizer.pt", "scaler.pt", "data.pt", "rng_state_0.pth"),
    *("global_step100/zero_pp_rank_0_mp_rank_00_optim_states.pt", "opt_0/__0_0.distcp", "consolidated.optim.pt"),
    *("random_states_0.pkl", "mlruns/0/meta.yaml", "lightning_logs/v0/hparams.yaml", ".vscode/settings.json"),
    *("venv/bin/python", ".nfs0001", "openai_key.txt", "wandb_key", "secrets/x.json", ".secrets/x", ".viminfo"),
    *("slurm-4711.out", "nohup.out", "worker.err", ".bash_history", "events.out.tfevents.1", ".DS_Store"),
]
GOES = [
    *("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt"),
    *("scheduler/scheduler_config.json", "optimum_config.json", "optimization.md", "core/config.json", "monkey.md"),
    *("trainer_state.json", "environment.yml", "images/logo.png", ".gitattributes", "data.json", "model.key_map.json"),
    *("generation_config.json", "modeling_custom.py", "README.md", "LICENSE", "assets/plot.png", "scores.json"),
]


@pytest.mark.parametrize(("names", "goes"), [(STAYS, False), (GOES, True)])
def test_keys_dumps_and_logs_stay_with_their_reason(names: list[str], goes: bool, folder: Path) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    plan = survey(folder, any_folder=False)
    assert {name for name in names if (name in plan.files) != goes} == set()
    assert all(plan.left_out.get(name) for name in names if not goes)


@pytest.mark.parametrize(
    ("content", "goes"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc", False),
        ("-----BEGIN RSA PRIVATE KEY-----", False),
        (f"export HF_TOKEN=hf_{'a' * 34}", False),
        (f"OPENAI_API_KEY: sk-proj-{'b1' * 24}", False),
        (f"aws AKIA{'A1' * 8} region", False),
        (f"ghp_{'c' * 36}", False),
        (f"gsk_{'A1b2' * 13}", False),
        (f"nvapi-{'A1b2' * 16}", False),
        (f"AIza{'SyA1b2_' * 5}", False),
        (f"glpat-{'A1b2' * 5}", False),
        (f"WANDB_API_KEY={'0a1b2c3d' * 5}", False),
        (f"aws_secret_access_key = {'A1b2/' * 8}", False),
        (f"machine api.wandb.ai login user password {'0a1b2c3d' * 5}", False),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----", False),
        (f"sha256: {'0a1b2c3d' * 8}, commit {'0a1b2c3d' * 5}", True),
        ("api_key: YOUR_KEY, WANDB_API_KEY=xxxxxxxx, password: see the wiki, export HF_TOKEN=<your token>", True),
        ("api_key = os.environ['OPENAI_API_KEY']; api_key: ${OPENAI_API_KEY}", True),
        ("set HF_TOKEN=hf_... before you begin; keys look like sk-...", True),
        ("-----BEGIN CERTIFICATE-----", True),
        ("risk-averse task-oriented sk-learn", True),
    ],
)
def test_a_key_in_a_text_keeps_the_text_here(content: str, goes: bool, folder: Path) -> None:
    (folder / "notes.md").write_text(content)
    assert ("notes.md" in survey(folder, any_folder=False).files) is goes


def test_links_out_of_the_folder_stay(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (folder / "out.txt").symlink_to(tmp_path / "private.txt")
    (folder / "elsewhere").symlink_to(tmp_path / "elsewhere")
    (folder / "nothing.txt").symlink_to(tmp_path / "nothing")
    (folder / "inside.json").symlink_to("config.json")
    (folder / "circle.txt").symlink_to("circle.txt")
    plan = survey(folder, any_folder=False)
    assert {"out.txt", "elsewhere", "nothing.txt", "circle.txt"} <= plan.left_out.keys()
    assert plan.files["inside.json"] == WANTED["config.json"]


def test_a_snapshot_of_the_hubs_cache_is_whole(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--lab--model"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for number, name in enumerate(WANTED):
        if "/" not in name:
            (folder / name).rename(cache / "blobs" / str(number))
            (snapshot / name).symlink_to(cache / "blobs" / str(number))
    assert len(survey(snapshot, any_folder=False).files) == len(WANTED) - 1


def test_what_was_not_shown_does_not_go(hub: Hub, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("secret of the lab")
    (folder / "out.txt").symlink_to(tmp_path / "private.txt")
    (folder / "id_rsa").write_text("x")
    assert run("jobs.upload", f"folder={folder}", f"repo={REPO}").returncode == 0
    assert hub.files == WANTED


def lose(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lose("model-00002-of-00002.safetensors"), "model-00002-of-00002.safetensors is missing"),
        (write("model.safetensors.index.json", b'{"weight_map":{"a":"gone.safetensors"}}'), "names gone.safetensors"),
        (write("model.safetensors.index.json", b"{}"), "has no weight_map"),
        (write("model.safetensors.index.json", b"{"), "is not JSON"),
        (write("model-00001-of-00002.safetensors", b""), "is cut short"),
        (write("model-00001-of-00002.safetensors", FIRST[:-1]), "its header says"),
        (write("model-00001-of-00002.safetensors", FIRST[:100]), "its header says"),
        (write("model-00001-of-00002.safetensors", FIRST + b"x"), "its header says"),
        (write("model-00001-of-00002.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), "is cut short"),
        (write("model-00001-of-00002.safetensors", b"\x10" + bytes(7) + b"{" * 16), "damaged header"),
        (write("pytorch_model.bin", b""), "is empty"),
        (write("pytorch_model.bin", b"PK\x03\x04" + bytes(200)), "is cut short"),
        (write("model.gguf", b"GGUF"), "not a GGUF file"),
        (write("config.json", b"{}"), "names no model"),
        (write("config.json", b"[1]"), "names no model"),
        (write("config.json", b'{"model_type": '), "is not JSON"),
        (write("config.json", b"[" * 100_000), "is not JSON"),
        (lose("tokenizer.json"), "has no tokenizer"),
        (write("tokenizer.json", b""), "tokenizer.json is empty"),
        (write("tokenizer.json", b'{"version": '), "is not JSON"),
        (write("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\n"), "pointer of Git LFS"),
    ],
)
def test_half_a_model_is_refused(change: Callable[[Path], object], said: str, folder: Path) -> None:
    change(folder)
    with pytest.raises(SpecError, match="does not hold a whole model") as error:
        survey(folder, any_folder=False)
    assert said in str(error.value)
    assert survey(folder, any_folder=True).files


def test_a_real_model_is_whole(tmp_path: Path) -> None:
    assert "model.safetensors" in survey(make_tiny_model(tmp_path / "tiny"), any_folder=False).files


REFUSED = ("model.git", "a--b", "a..b", "-a", "a.", ".a", "a" * 97, "モデル", "a b", "a/b")


def test_names_that_the_hub_refuses_end_the_dry_run(folder: Path) -> None:
    for name in REFUSED:
        with pytest.raises(SpecError, match="repo="):
            load_spec(UploadSpec, None, [f"folder={folder}", f"repo=lab/{name}"])
    assert "the hub takes no such name" in refused(f"folder={folder}", "repo=lab/a--b", "--dry-run")
