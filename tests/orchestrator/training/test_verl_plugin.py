"""What the plugin puts into verl: value head and packed rows without flash-attn, the CPU platform and its rollout."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.files import REPOSITORY
from orchestrator.training.environment import FOLDER_VARIABLE, PLUGIN, worker_env
from tests.support.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(model: Path) -> Any:
    from orchestrator.training.verl_plugin.rollout import HFServer

    return HFServer(str(model), response_length=8, max_batch=16, trust_remote_code=False)


def test_worker_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_IB_TC", "106")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "=eth0")  # of this node alone
    assert worker_env(cpu=False)["NCCL_IB_TC"] == "106"
    assert worker_env(cpu=False).keys().isdisjoint({"VERL_PLATFORM", "NCCL_SOCKET_IFNAME"})
    assert worker_env(cpu=True, folder=tmp_path).items() >= {
        ("VERL_USE_EXTERNAL_MODULES", PLUGIN),
        ("VERL_PLATFORM", "cpu"),
        ("VLLM_TARGET_DEVICE", "cpu"),
        (FOLDER_VARIABLE, str(tmp_path)),
    }


@pytest.mark.parametrize(("named", "loaded"), [("flash_attention_2", "sdpa"), ("eager", "eager")])
def test_value_head_loads_without_flash_attention(model: Path, named: str, loaded: str) -> None:
    import torch
    from transformers import AutoConfig
    from verl.utils import model as verl_model

    import orchestrator.training.verl_plugin  # noqa: F401

    config = AutoConfig.from_pretrained(model, attn_implementation=named, num_labels=1)
    head = verl_model.load_valuehead_model(str(model), torch.float32, config, False)
    assert head.config._attn_implementation == loaded
    assert head(torch.tensor([[5, 6, 7]])).logits.shape == (1, 3, 1)


def test_cpu_platform_is_verls_own_there() -> None:
    """In a process of its own: verl chooses its platform once."""
    code = (
        "import torch, verl\n"
        "from verl.utils.device import get_device_name, get_torch_device\n"
        "from verl.utils.distributed import initialize_global_process_group\n"
        "from verl.workers.rollout.replica import get_rollout_replica_class\n"
        "print(get_device_name(), get_torch_device().is_available(), get_torch_device().max_memory_allocated() > 1e6)\n"
        "print(initialize_global_process_group(), torch.distributed.get_backend())\n"
        "print(get_rollout_replica_class('hf_cpu').__name__)\n"
    )
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), **worker_env(cpu=True), **place}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split("\n")[:3] == ["cpu False True", "(0, 0, 1) cpu:gloo", "HFReplica"], done.stderr


def test_rollout_answers_a_batch_as_it_answers_one_by_one(server: Any) -> None:
    prompts = [[10, 11, 12], [20], [30, 31, 32, 33, 34, 35]]
    greedy = {"temperature": 0.0}

    async def together() -> list[Any]:
        return await asyncio.gather(*(server.generate("", prompt, greedy) for prompt in prompts))

    async def alone() -> list[Any]:
        return [await server.generate("", prompt, greedy) for prompt in prompts]

    batched, single = asyncio.run(together()), asyncio.run(alone())
    assert [answer.token_ids for answer in batched] == [answer.token_ids for answer in single]
    assert all(1 <= len(answer.token_ids) == len(answer.log_probs) <= 8 for answer in batched)


def test_rollout_takes_new_weights(server: Any, model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_pretrained(make_tiny_model(tmp_path, seed=1))
    greedy = {"temperature": 0.0, "max_tokens": 4}
    prompt = [10, 11, 12]

    async def renew() -> Any:
        await server.update_weights(dict(other.named_parameters()), 7)
        return await server.generate("", prompt, greedy)

    answer = asyncio.run(renew())
    import torch

    expected = other.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False)[0, 3:].tolist()
    assert answer.token_ids == expected[: len(answer.token_ids)]
    assert answer.extra_fields == {"global_steps": 7}
    with pytest.raises(RuntimeError, match=r"without \['model"):
        asyncio.run(server.update_weights({}, 8))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_log_probabilities_and_their_gradient_are_those_of_log_softmax(dtype: str) -> None:
    import torch

    from orchestrator.training.verl_plugin import patches

    torch.manual_seed(0)
    logits = (4 * torch.randn(3, 50, 97)).to(getattr(torch, dtype)).requires_grad_()
    labels = torch.randint(97, (3, 50))
    weights = torch.randn(3, 50)
    found = patches.log_probs(logits, labels)
    (found * weights).sum().backward()
    mine, logits.grad = logits.grad, None
    wanted = logits.float().log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
    (wanted * weights).sum().backward()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(mine, logits.grad)


def test_log_probabilities_are_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from orchestrator.training.verl_plugin import patches

    logits, labels = torch.randn(50, 97), torch.randint(97, (50,))
    whole = patches.log_probs(logits, labels)
    monkeypatch.setattr(patches, "CHUNK", 7 * 97)
    torch.testing.assert_close(patches.log_probs(logits, labels), whole)


@pytest.mark.parametrize("window", [None, 4])
def test_packed_rows_do_not_see_each_other(window: int | None) -> None:
    import torch
    import torch.nn.functional as F

    from orchestrator.training.verl_plugin import packed

    torch.manual_seed(0)
    lengths = [3, 1, 9]
    query, key, value = torch.randn(1, 8, 13, 16), torch.randn(1, 2, 13, 16), torch.randn(1, 2, 13, 16)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    module = torch.nn.Module()
    found, _ = packed.attention(
        module, query, key, value, None, position_ids=positions, scaling=0.3, sliding_window=window
    )
    row = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    place = torch.arange(13)
    distance = place[:, None] - place
    seen = (row[:, None] == row) & (distance >= 0) & (distance < (window or 13))
    wanted = F.scaled_dot_product_attention(query, key, value, seen, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(found, wanted.transpose(1, 2))


def test_attention_over_packed_rows_refuses_what_it_does_not_do() -> None:
    import torch

    from orchestrator.training.verl_plugin import packed

    tensor, positions = torch.randn(1, 2, 4, 8), torch.arange(4)[None]
    module = torch.nn.Module()
    with pytest.raises(ValueError, match="padded rows need sdpa"):
        packed.attention(module, tensor, tensor, tensor, torch.ones(1, 4), position_ids=positions)
    with pytest.raises(ValueError, match="attention=sdpa"):
        packed.attention(module, tensor, tensor, tensor, None, position_ids=positions, softcap=50.0)
    with pytest.raises(ValueError, match="sequence parallelism"):
        packed.attention(module, tensor, tensor, tensor, None, position_ids=positions + 2)


def test_compiled_log_probabilities_are_the_same() -> None:
    import torch

    from orchestrator.training.verl_plugin import patches

    logits, labels = torch.randn(11, 97), torch.randint(97, (11,))
    plain, compiled = patches._forward(logits, labels), patches._fused(patches._forward)(logits, labels)
    torch.testing.assert_close(compiled, plain)
    weights = torch.randn(11)
    given = (logits, labels, plain[1], weights)
    torch.testing.assert_close(patches._fused(patches._backward)(*given), patches._backward(*given))
