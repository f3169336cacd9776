"""Uploads a model folder to the Hugging Face hub, and compares what is there then with the folder."""

import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from orchestrator import secrets
from orchestrator.console import say
from orchestrator.errors import INTERRUPTED, KosenError, SpecError, storage_error
from orchestrator.spec import SpecModel, first_line
from orchestrator.training.checkpoints.model_folder import UploadPlan

CACHE = Path(".cache", "huggingface")  # of the hub's client, inside the folder: what is uploaded already
TARGET = "kosen-upload.json"
BYTES_A_WORKER, MOST_WORKERS = 10e9, 8  # one that finds nothing to do sleeps for ten seconds
MEGABYTE = 1e6


class UploadSpec(SpecModel):
    folder: str = Field(min_length=1)
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")  # owner/name
    public: bool = False
    any_folder: bool = False  # also one that holds no model, or half of one

    @field_validator("repo")
    @classmethod
    def _as_the_hub_names(cls, repo: str) -> str:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in __all__

        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise ValueError(f"the hub takes no such name: {first_line(error)}") from None
        return repo


class UploadFailed(KosenError):
    """The hub could not be reached, or it refused."""


def describe(spec: UploadSpec, folder: Path, plan: UploadPlan) -> str:
    """What `--dry-run` prints."""
    lines = [f"{folder} → {spec.repo} ({'public' if spec.public else 'private'})"]
    lines += [f"{size / MEGABYTE:12,.1f} MB  {name}" for name, size in plan.files.items()]
    lines += [f"{plan.total / MEGABYTE:12,.1f} MB  in {len(plan.files)} files"]
    lines += [f"    left out     {name}: {why}" for name, why in plan.left_out.items()]
    return "\n".join(lines)


def upload(spec: UploadSpec, folder: Path, plan: UploadPlan) -> str:
    """Upload what is not there yet, and compare what is there then. Returns the repository's address."""
    token = secrets.find("HF_TOKEN")
    if not token:
        raise SpecError(f"HF_TOKEN is not set. Export it, or put HF_TOKEN=… into {secrets.secrets_file()} (mode 0600)")
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _explained(spec, token):
        _settle_repository(api, spec)
        say(f"{folder} → {spec.repo}: {len(plan.files)} files, {plan.total / MEGABYTE:,.1f} MB")
        _settle_cache(folder, f"{api.endpoint}/{spec.repo}")
        try:
            api.upload_large_folder(
                spec.repo,
                folder,
                repo_type="model",
                private=not spec.public,
                allow_patterns=[glob.escape(name) for name in plan.files],  # what was shown, and nothing else
                num_workers=min(MOST_WORKERS, 1 + int(plan.total / BYTES_A_WORKER)),
                print_report=False,
            )
        except KeyboardInterrupt:
            say("interrupted. What is uploaded stays; run the same command to resume")
            os._exit(INTERRUPTED)  # the client's threads would finish the whole upload first
        _check(api, spec, plan)
    shutil.rmtree(folder / CACHE / "upload", ignore_errors=True)
    (folder / CACHE / TARGET).unlink(missing_ok=True)
    return f"{api.endpoint}/{spec.repo}"


def _settle_repository(api: Any, spec: UploadSpec) -> None:
    """Create the repository, or make sure that the one that exists is seen by whom the spec says."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        private = bool(api.model_info(spec.repo).private)
    except RepositoryNotFoundError:
        api.create_repo(spec.repo, repo_type="model", private=not spec.public)
        return
    if spec.public and private:
        raise SpecError(f"{spec.repo} exists and is private. Leave out public=true, or publish it in its settings")
    if not spec.public and not private:
        raise SpecError(f"{spec.repo} exists and is public: everybody would see this model. If so, add public=true")


def _settle_cache(folder: Path, target: str) -> None:
    """The client notes which files are uploaded, but not whereto: notes for another repository are removed."""
    note = folder / CACHE / TARGET
    try:
        if not note.exists() or json.loads(note.read_text(encoding="utf-8")) != target:
            shutil.rmtree(folder / CACHE / "upload", ignore_errors=True)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(target), encoding="utf-8")
    except OSError as error:
        raise storage_error(error, note) from None


def _check(api: Any, spec: UploadSpec, plan: UploadPlan) -> None:
    """Sizes on the hub are those of the folder."""
    there = {file.rfilename: file.size for file in api.model_info(spec.repo, files_metadata=True).siblings or ()}
    wrong = [name for name, size in plan.files.items() if there.get(name) != size]
    if wrong:
        raise UploadFailed(
            f"{spec.repo} has {there.get(wrong[0], 'nothing')} bytes of {wrong[0]}, expected {plan.files[wrong[0]]}; "
            f"{len(wrong)} files differ. Run the same command again"
        )


@contextmanager
def _explained(spec: UploadSpec, token: str) -> Iterator[None]:
    """Turn what the hub's client raises into a sentence, in which the token does not occur."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise SpecError(
                f"the hub refuses HF_TOKEN for {spec.repo} ({code}). Expected a token that may write to "
                f"{spec.repo.partition('/')[0]}: https://huggingface.co/settings/tokens"
            ) from None
        raise UploadFailed(f"the hub answered {code} for {spec.repo}: {_clean(error, token)}") from None
    except (ConnectionError, httpx.TransportError) as error:
        raise UploadFailed(
            f"the hub is not reachable from here ({_clean(error, token)}). Run the same command where it is: what is "
            "uploaded stays"
        ) from None
    except RuntimeError as error:  # upload_large_folder gave up
        cause = _clean(error.__cause__ or error, token)
        raise UploadFailed(f"the upload stopped: {cause}. Run the same command to resume") from None


def _clean(error: BaseException, token: str) -> str:
    return first_line(error).replace(token, "…")
