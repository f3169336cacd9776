"""Our keys and the user's against the verl that is installed: what lands, what is refused, and in what words."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from jobs.ppo import RULES
from orchestrator.errors import SpecError
from orchestrator.planning.gpus import find_gpu
from orchestrator.spec import load_spec
from orchestrator.training.config import verl_config
from orchestrator.training.config.placement import Placement
from orchestrator.training.config.ppo_config import ppo_keys
from orchestrator.training.config.sft_config import sft_keys
from orchestrator.training.folder import TrainingFolder
from orchestrator.training.spec import PpoSpec, SftSpec
from tests.support.planning_configs import QWEN_8B, QWEN_32B

CPU = Placement("cpu", 1, 1, "a test")
GPUS = Placement("cuda", 2, 8, "a test")
REQUIRED = ("model=org/name", "train=rows.jsonl")
H100, H200 = find_gpu("h100").memory, find_gpu("h200").memory


def sft(*overrides: str, placement: Placement = CPU) -> Any:
    spec = load_spec(SftSpec, None, [*REQUIRED, *overrides])
    return verl_config.resolve("sft", sft_keys(spec, placement, TrainingFolder(Path("/runs/one"))), spec.verl)


def ppo(*overrides: str, placement: Placement = CPU) -> Any:
    spec = load_spec(PpoSpec, None, [*REQUIRED, *overrides])
    return verl_config.resolve("ppo", ppo_keys(spec, placement, TrainingFolder(Path("/runs/one")), RULES), spec.verl)


def test_any_key_of_verl_lands_nested_dotted_or_with_hydras_plus() -> None:
    keys = {"optim.lr": 1e-4, "model": {"path": "org/name"}}
    users = {"optim": {"betas": [0.9, 0.95]}, "+model.override_config.rope_theta": 5, "trainer.save_freq": 7}
    config = verl_config.resolve("sft", keys, users)
    assert (config.optim.lr, config.optim.betas, config.trainer.save_freq) == (1e-4, [0.9, 0.95], 7)
    assert (config.model.path, config.model.override_config) == ("org/name", {"rope_theta": 5})


def test_the_users_key_wins_over_ours_and_command_line_lists_are_lists() -> None:
    config = sft("lr=1e-5", "verl.optim.lr=2e-5", "verl.optim.betas=[0.8,0.9]")
    assert config.optim.lr == 2e-5
    assert config.optim.betas == [0.8, 0.9]


def test_everything_is_resolved_and_survives_the_file(tmp_path: Path) -> None:
    config = ppo("rollout.max_response_length=77")
    verl_config.write(tmp_path, config, {"keep_checkpoints": 3})
    read: Any = OmegaConf.load(tmp_path / "verl.yaml")
    assert read.kosen.keep_checkpoints == 3
    assert "${" not in (tmp_path / "verl.yaml").read_text()
    assert read.actor_rollout_ref.rollout.response_length == 77  # verl interpolates it
    del read["kosen"]
    assert read == config


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("optim.lrr", "optim.lr"),
        ("optimizer.lr", "optim.lr"),
        ("trainer.n_gpus_per_nod", "trainer.n_gpus_per_node"),
        ("engine.mixed_precison", "engine.mixed_precision"),  # a field of the dataclass that no file lists
        ("optim.lr.warmup", "optim.lr_warmup"),
        ("model.lora_rnk", "model.lora_rank"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    with pytest.raises(SpecError) as error:
        sft(f"verl.{key}=1")
    assert f"no key {key}" in str(error.value)
    assert f"verl.{nearest}" in str(error.value)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("optim.lr=fast", "optim.lr='fast'"),
        ("trainer.total_epochs=many", "expected a number"),
        ("data.use_dynamic_bsz=3", "expected true or false"),
        ("engine.strategy=ddp", "strategy ddp"),
        ("optim.betas=[0.9]", "optim.betas"),
        ("optim=adam", "keys like"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(override: str, part: str) -> None:
    with pytest.raises(SpecError) as error:
        sft(f"verl.{override}")
    assert part in str(error.value)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("actor_rollout_ref.rollout.mode=sync", "sync"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size=4096", "4096"),
        ("actor_rollout_ref.rollout.name=???", "actor_rollout_ref.rollout.name"),
        ("actor_rollout_ref.actor.loss_agg_mode=mean", "loss_agg_mode"),
        ("trainer.nnodes=3", "divisible"),
    ],
)
def test_what_verl_itself_refuses_is_one_sentence(override: str, part: str) -> None:
    with pytest.raises(SpecError) as error:
        ppo(f"verl.{override}", "batch_size=32")
    assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("placement", [CPU, GPUS], ids=["cpu", "gpu"])
@pytest.mark.parametrize("extra", [[], ["lora.rank=8"], ["packing=true", "val=rows.jsonl"]], ids=["", "lora", "packed"])
def test_fine_tuning_is_valid_on_both_devices(placement: Placement, extra: list[str]) -> None:
    config = sft(*extra, placement=placement)
    short = "fp32" if placement is CPU else "bf16"
    assert config.engine.mixed_precision.param_dtype == short
    assert config.engine.use_torch_compile is (placement is GPUS)
    assert config.model.lora_rank == (8 if "lora.rank=8" in extra else 0)
    packed = placement is GPUS or "packing=true" in extra
    assert config.model.use_remove_padding is config.data.use_dynamic_bsz is packed
    assert config.model.override_config.attn_implementation == ("packed_sdpa" if packed else "sdpa")


def test_the_optimizer_is_fused_on_gpus_unless_it_is_another() -> None:
    assert sft(placement=GPUS).optim.override_optimizer_config == {"fused": True}
    assert sft(placement=CPU).optim.override_optimizer_config is None
    other = ["verl.optim.optimizer=AdamW8bit", "verl.optim.optimizer_impl=bitsandbytes.optim"]
    assert sft(*other, placement=GPUS).optim.override_optimizer_config is None


def test_padded_rows_can_be_had_on_gpus() -> None:
    config = sft("packing=false", placement=GPUS)
    assert not config.model.use_remove_padding and not config.data.use_dynamic_bsz
    policy = ppo("attention=sdpa", placement=GPUS).actor_rollout_ref.model
    assert (policy.use_remove_padding, policy.override_config.attn_implementation) == (False, "sdpa")


@pytest.mark.parametrize(("extra", "tokens"), [([], 8192), (["rollout.max_response_length=16384"], 512 + 16384)])
def test_answers_are_packed_on_gpus_by_tokens_and_one_of_any_length_fits(extra: list[str], tokens: int) -> None:
    config = ppo("algorithm=ppo", *extra, placement=GPUS)
    actor, ref, rollout = (config.actor_rollout_ref[name] for name in ("actor", "ref", "rollout"))
    assert actor.use_dynamic_bsz and ref.log_prob_use_dynamic_bsz and rollout.log_prob_use_dynamic_bsz
    assert config.critic.use_dynamic_bsz and config.critic.ppo_max_token_len_per_gpu == tokens
    assert actor.ppo_max_token_len_per_gpu == ref.log_prob_max_token_len_per_gpu == tokens


def keeps_whole(config: Any) -> bool:
    kept: bool = config.engine.use_no_sync_for_gradient_accumulation
    assert config.engine.reshard_after_forward is not kept
    return kept


def test_one_process_keeps_weights_and_gradients_whole() -> None:
    alone, many = (sft(placement=Placement("cuda", 1, workers, "")) for workers in (1, 8))
    assert keeps_whole(alone) and not keeps_whole(many)


@pytest.mark.parametrize(
    ("shape", "gpus", "memory", "extra", "whole"),
    [
        (QWEN_8B, 8, H200, [], True),  # 8.19 billion x (16 / 8 + 6) bytes: 61 GiB of 70
        (QWEN_8B, 4, H200, [], False),
        (QWEN_8B, 8, H200, ["dtype=float32"], False),
        (QWEN_8B, 8, H100, [], False),
        (QWEN_32B, 16, H200, [], False),
        (QWEN_8B, 8, None, [], False),
        (QWEN_8B, 8, H200, ["lora.rank=16"], False),
        (QWEN_8B, 8, H200, ["verl.engine.offload_policy=true"], False),
        ({"model_type": "nobody_knows"}, 8, H200, [], False),
    ],
)
def test_several_processes_keep_them_where_their_gpus_have_room(
    shape: dict[str, Any], gpus: int, memory: float | None, extra: list[str], whole: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(shape))
    placement = Placement("cuda", 1, gpus, "a test", memory)
    assert keeps_whole(sft(f"model={tmp_path}", *extra, placement=placement)) is whole


def test_the_user_decides_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN_8B))
    given = ["verl.engine.reshard_after_forward=true", "verl.engine.use_no_sync_for_gradient_accumulation=false"]
    assert not keeps_whole(sft(f"model={tmp_path}", *given, placement=Placement("cuda", 1, 8, "a test", H200)))


@pytest.mark.parametrize("placement", [CPU, GPUS], ids=["cpu", "gpu"])
@pytest.mark.parametrize(
    ("algorithm", "estimator", "n", "in_reward", "in_loss"),
    [("ppo", "gae", 1, True, False), ("grpo", "grpo", 5, False, True), ("rloo", "rloo", 5, True, False)],
)
def test_each_algorithm_has_its_own_defaults(
    placement: Placement, algorithm: str, estimator: str, n: int, in_reward: bool, in_loss: bool
) -> None:
    config = ppo(f"algorithm={algorithm}", placement=placement)
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (config.algorithm.adv_estimator, rollout.n) == (estimator, n)
    assert (config.algorithm.use_kl_in_reward, actor.use_kl_loss) == (in_reward, in_loss)
    assert rollout.name == ("hf_cpu" if placement is CPU else "vllm")
    assert not ppo(f"algorithm={algorithm}", "kl_coef=0").actor_rollout_ref.actor.use_kl_loss


def test_rewards_become_functions_of_our_module(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def score(**_): return 1.0\n")
    function = ppo(f"reward={file}:score", "reward_arguments={bonus: 2}").reward.custom_reward_function
    assert function.name == "user_function"
    assert function.reward_kwargs == {"path": str(file), "name": "score", "arguments": {"bonus": 2}}
    rule = ppo("reward=exact_match").reward.custom_reward_function
    assert rule.name == "user_function"
    assert rule.reward_kwargs == {"path": "pkg://jobs.tasks.exact_match", "name": "reward"}
    asked = ppo("reward=judge", "judge.model=m", "judge.base_url=http://h/v1").reward.custom_reward_function
    assert (asked.name, asked.reward_kwargs.model) == ("judge", "m")


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("reward=none.py", "none.py"),
        ("reward=gsm9k", "gsm8k"),
        ("reward=judge", "judge.model"),
        ("rollout.name=vllm", "GPUs only"),
        ("mini_batch_size=100", "multiple"),
        ("judge.prompt=none.txt", ""),
    ],
)
def test_keys_that_do_not_go_together(override: str, part: str) -> None:
    needs = ["reward=judge", "judge.model=m", "judge.base_url=u"] if override.startswith("judge.") else []
    with pytest.raises(SpecError) as error:
        ppo(override, *needs)
    assert part in str(error.value)


def test_micro_batches_divide_the_share_of_a_worker() -> None:
    assert sft("batch_size=96", "micro_batch_size=40", placement=GPUS).data.micro_batch_size_per_gpu == 6
    config = ppo("batch_size=32", "rollout.n=3", "micro_batch_size=4", placement=GPUS)
    assert config.actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu == 3


def test_a_configuration_of_before_the_modules_moved_is_the_same(tmp_path: Path) -> None:
    config = ppo("reward=gsm8k")
    verl_config.write(tmp_path, config, {})
    file = tmp_path / "verl.yaml"
    file.write_text(file.read_text().replace("training.trainer.rewards", "training.rewards"))
    earlier = verl_config.read(file)
    earlier.pop("kosen")
    assert verl_config.changes(earlier, config) == {}
