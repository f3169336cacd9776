"""Checkpoints of verl's FSDP trainer on two processes become folders that others load, with the same answers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.files import REPOSITORY
from orchestrator.training.checkpoints import checkpoints
from orchestrator.training.checkpoints.merge_run import MARK
from orchestrator.training.data.convert import convert_sft
from orchestrator.training.environment import worker_env
from tests.support.harness import run
from tests.support.tiny_model import make_tiny_model

SETTINGS = [
    "+model.override_config={attn_implementation:sdpa}",
    "model.use_remove_padding=False",
    "model.enable_gradient_checkpointing=False",
    "engine.strategy=fsdp2",
    "engine.use_torch_compile=False",
    "+engine.mixed_precision={param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}",
    "data.train_batch_size=8",
    "data.micro_batch_size_per_gpu=4",
    "data.use_dynamic_bsz=False",
    "data.max_length=128",
    "data.num_workers=0",
    "data.ignore_input_ids_mismatch=True",
    "optim.lr=3e-3",
    "trainer.device=cpu",
    "trainer.logger=[console]",
    "trainer.total_epochs=1",
    "trainer.save_freq=2",
    "trainer.test_freq=-1",
    "trainer.n_gpus_per_node=2",
]
LORA = ["model.lora_rank=4", "model.lora_alpha=16", "model.target_modules=all-linear"]
LAST_STEP = 4
WORDS = "What is 2+3?"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps on all weights, with checkpoints of steps 2 and 4. Over packed rows, whose attention
    transformers does not know by itself: a merge must not need it, nor name it."""
    settings = ["+model.override_config={attn_implementation:packed_sdpa}", "model.use_remove_padding=True"]
    return train(base, tmp_path_factory.mktemp("full"), *settings, "data.use_dynamic_bsz=True")


@pytest.fixture(scope="module")
def adapted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with LoRA."""
    return train(base, tmp_path_factory.mktemp("lora"), *LORA)


def train(base: Path, folder: Path, *settings: str) -> Path:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"{n}+1?", "answer": str(n + 1)}) + "\n" for n in range(32)))
    convert_sft(str(rows), folder / "data" / "train.parquet")
    places = [
        f"model.path={base}",
        f"data.train_files={folder}/data/train.parquet",
        "data.val_files=null",
        f"trainer.default_local_dir={folder}/checkpoints",
    ]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | worker_env(cpu=True) | {"PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    command = [*launch, "-m", "verl.trainer.sft_trainer", *SETTINGS, *places, *settings]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (folder / "verl.yaml").write_text(f"model:\n  path: {base}\n")
    for step in (2, LAST_STEP):
        checkpoints.seal(folder / "checkpoints" / f"global_step_{step}")
    return folder


def merge(*arguments: str) -> str:
    done = run("jobs.merge", *arguments, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def refused(*arguments: str, code: int = 2) -> str:
    done = run("jobs.merge", *arguments, timeout=280)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def shards(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The trained weights, put together without verl's merger."""
    parts: list[dict[str, Any]] = [
        torch.load(checkpoint / f"model_world_size_2_rank_{rank}.pt", weights_only=False) for rank in (0, 1)
    ]
    return {
        name: torch.cat([part[name].to_local() for part in parts]) if isinstance(first, DTensor) else first
        for name, first in parts[0].items()
    }


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([[1, 50, 60, 70, 5, 6]])).logits.float()


def test_the_newest_checkpoint_answers_as_the_trained_weights_do(base: Path, trained: Path) -> None:
    out = Path(merge(f"run={trained}"))
    assert out == trained / "exports" / f"global_step_{LAST_STEP}"
    model = AutoModelForCausalLM.from_pretrained(base)
    before = logits(model)
    model.load_state_dict(shards(trained / "checkpoints" / f"global_step_{LAST_STEP}"))
    merged = AutoModelForCausalLM.from_pretrained(out)
    assert merged.dtype == torch.float32  # as the base model, where verl's merger would round to bfloat16
    assert torch.equal(logits(merged), logits(model)) and not torch.allclose(logits(merged), before, atol=1e-2)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(out)
    messages = [{"role": "user", "content": WORDS}]
    assert new.apply_chat_template(messages) == old.apply_chat_template(messages)
    assert new.pad_token == old.pad_token and new.eos_token == old.eos_token
    config = json.loads((out / "config.json").read_text())
    assert config == json.loads((base / "config.json").read_text())
    facts = json.loads((out / MARK).read_text())
    assert facts["step"] == LAST_STEP and facts["parameters"] == sum(p.numel() for p in model.parameters())


def test_what_is_merged_already_stays_as_it_is(trained: Path) -> None:
    out = Path(merge(f"run={trained}", "step=2", f"out={trained}/again"))
    written = (out / "model.safetensors").stat().st_mtime_ns
    done = run("jobs.merge", f"run={trained}", "step=2", f"out={trained}/again")
    assert done.returncode == 0 and "is there already, from step 2" in done.stderr
    assert (out / "model.safetensors").stat().st_mtime_ns == written
    assert "from step=2, not 4" in refused(f"run={trained}", f"out={trained}/again")
    assert "was not made by jobs.merge" in refused(f"run={trained}", f"out={trained}/data")
    assert [path.name for path in trained.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_adapters_are_added_to_the_weights(base: Path, adapted: Path) -> None:
    from peft import LoraConfig, get_peft_model

    out = Path(merge(f"run={adapted}"))
    settings = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    before = logits(model)
    model.load_state_dict(shards(adapted / "checkpoints" / f"global_step_{LAST_STEP}"))
    merged = logits(AutoModelForCausalLM.from_pretrained(out))
    assert torch.allclose(merged, logits(model), atol=1e-5) and not torch.allclose(merged, before, atol=1e-2)
    assert not (out / "lora_adapter").exists()


def test_the_actor_of_ppo_in_sixteen_bits(trained: Path, tmp_path: Path) -> None:
    """PPO's checkpoints come from the same code of verl, with the actor one folder further down."""
    folder = tmp_path / "ppo" / "checkpoints" / "global_step_7"
    shutil.copytree(trained / "checkpoints" / f"global_step_{LAST_STEP}", folder / "actor")
    (folder / "critic").mkdir()
    (folder / "actor" / checkpoints.SEAL).unlink()
    checkpoints.seal(folder)
    out = Path(merge(f"run={tmp_path}/ppo", "dtype=bfloat16", f"out={tmp_path}/model"))
    merged = AutoModelForCausalLM.from_pretrained(out)
    whole = shards(folder / "actor")
    assert merged.dtype == torch.bfloat16 and json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert all(torch.equal(tensor, whole[name].bfloat16()) for name, tensor in merged.state_dict().items())


def test_bad_checkpoints_are_passed_over_or_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "checkpoints", tmp_path / "run" / "checkpoints")
    newest = tmp_path / "run" / "checkpoints" / f"global_step_{LAST_STEP}"
    (newest / "model_world_size_2_rank_1.pt").write_bytes(b"half")
    said = refused(f"run={tmp_path}/run", f"step={LAST_STEP}")
    assert "is damaged" in said and "The newest whole checkpoint is 2" in said
    assert merge(f"run={tmp_path}/run").endswith("global_step_2")
    assert "has no seal" in refused(f"run={tmp_path}/run", "step=3")
    assert "there is no such folder" in refused(f"run={tmp_path}/none")


def test_a_failing_merge_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints" / "global_step_2"
    shutil.copytree(trained / "checkpoints" / "global_step_2", folder)
    for rank in (0, 1):
        path = folder / f"model_world_size_2_rank_{rank}.pt"
        weights = torch.load(path, weights_only=False)
        weights["model.norm.weight"].to_local().fill_(float("nan"))
        torch.save(weights, path)
    checkpoints.seal(folder)
    assert "training that diverged" in refused(f"run={tmp_path}/run", code=4)
    (folder / "fsdp_config.json").write_text("{}")
    checkpoints.seal(folder)
    assert "verl's merger ended with code 1" in refused(f"run={tmp_path}/run", code=4)
    assert list((tmp_path / "run" / "exports").iterdir()) == []


def copied(trained: Path, tmp_path: Path) -> Path:
    """A run with step 2 of `trained`, whose checkpoint a test may change; returns the checkpoint's folder."""
    shutil.copytree(trained / "checkpoints" / "global_step_2", tmp_path / "run" / "checkpoints" / "global_step_2")
    shutil.copy(trained / "verl.yaml", tmp_path / "run" / "verl.yaml")
    return tmp_path / "run" / "checkpoints" / "global_step_2"


def test_what_a_checkpoint_lacks_comes_from_the_base_model_and_is_said(
    base: Path, trained: Path, tmp_path: Path
) -> None:
    folder = copied(trained, tmp_path)
    for path in (folder / "huggingface").iterdir():
        if path.name != "config.json":
            path.unlink()
    checkpoints.seal(folder)
    done = run("jobs.merge", f"run={tmp_path}/run", timeout=280)
    assert done.returncode == 0, done.stderr
    assert "tokenizer" in done.stderr and f"of {base}" in done.stderr
    out = Path(done.stdout.strip().splitlines()[-1])
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(out)
    assert len(new) == len(old) and new.chat_template == old.chat_template


@pytest.mark.slow
def test_a_template_that_the_checkpoint_lost_comes_back(base: Path, trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    (folder / "huggingface" / "chat_template.jinja").unlink()
    checkpoints.seal(folder)
    out = Path(merge(f"run={tmp_path}/run"))
    assert AutoTokenizer.from_pretrained(out).chat_template == AutoTokenizer.from_pretrained(base).chat_template


@pytest.mark.slow
def test_a_model_without_a_tokenizer_is_refused(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    for path in (folder / "huggingface").glob("*token*"):
        path.unlink()
    (tmp_path / "run" / "verl.yaml").unlink()
    checkpoints.seal(folder)
    assert "has no tokenizer" in refused(f"run={tmp_path}/run")
    assert list((tmp_path / "run" / "exports").iterdir()) == []


@pytest.mark.slow
def test_a_head_that_would_be_lost_is_refused(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    for rank in (0, 1):
        path = folder / f"model_world_size_2_rank_{rank}.pt"
        weights = torch.load(path, weights_only=False)
        weights["lm_head.weight"] = torch.load(path, weights_only=False)["model.embed_tokens.weight"]
        weights["lm_head.weight"].to_local().add_(1)
        torch.save(weights, path)
    checkpoints.seal(folder)
    assert "a head of its own" in refused(f"run={tmp_path}/run")


class Planted:
    """What a checkpoint of unknown origin may hold: a call that unpickling makes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.slow
def test_a_checkpoint_runs_no_code(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    path = folder / "model_world_size_2_rank_0.pt"
    torch.save(torch.load(path, weights_only=False) | {"planted": Planted(tmp_path / "ran")}, path)
    checkpoints.seal(folder)
    refused(f"run={tmp_path}/run", code=4)
    assert not (tmp_path / "ran").exists()


VLLM = """
import json, sys
from vllm import LLM, SamplingParams
engine = LLM(sys.argv[1], enforce_eager=True, max_model_len=64, max_num_seqs=2)
(answer,) = engine.chat([{"role": "user", "content": sys.argv[2]}], SamplingParams(temperature=0, max_tokens=8))
print("TOKENS", json.dumps(list(answer.outputs[0].token_ids)))
"""


@pytest.mark.slow
def test_vllm_answers_as_transformers_does(adapted: Path) -> None:
    out = merge(f"run={adapted}")
    tokenizer = AutoTokenizer.from_pretrained(out)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": WORDS}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model = AutoModelForCausalLM.from_pretrained(out)
    expected = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :].tolist()
    environment = os.environ | {
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", VLLM, out, WORDS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("TOKENS"))
    assert json.loads(line.removeprefix("TOKENS ")) == expected
