"""Maps PpoSpec to verl configuration keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.ray_cluster.find import local_path
from orchestrator.training.config.common import (
    Keys,
    divisor,
    dtype,
    engine_keys,
    lora_keys,
    model_keys,
    packs,
    trainer_keys,
)
from orchestrator.training.config.placement import Placement, storage_units
from orchestrator.training.folder import TrainingFolder
from orchestrator.training.spec import Algorithm, PpoSpec

ESTIMATORS: dict[Algorithm, str] = {"ppo": "gae", "grpo": "grpo", "rloo": "rloo"}
REWARDS = "pkg://orchestrator.training.trainer.rewards"
MOST_HELPERS = 8  # processes that carry prompts and answers, and as many that score them: verl's default
POLICY = "actor_rollout_ref"


def ppo_keys(spec: PpoSpec, placement: Placement, folder: TrainingFolder, rules: Mapping[str, str]) -> Keys:
    """verl's dotted keys of `ppo_trainer`. `rules`: rewards that have a name, each as `pkg://module:function`."""
    return {
        **_algorithm(spec),
        **_data(spec, folder),
        **_policy(spec, placement),
        **_rollout(spec, placement),
        **_critic(spec, placement),
        **_reward(spec, placement, rules),
        **trainer_keys(spec, placement, folder, spec.run_name),
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": storage_units(placement.workers),
        "trainer.v1.trainer_mode": "kosen",  # our trainer, see ppo_trainer
        "trainer.val_before_train": False,
    }


def rollout_name(spec: PpoSpec, placement: Placement) -> str:
    """Which engine samples the answers. Raises SpecError for one that the device does not run."""
    if spec.rollout.name == "auto":
        return "vllm" if placement.device == "cuda" else "hf_cpu"
    if (spec.rollout.name == "vllm") != (placement.device == "cuda"):
        wanted = "GPUs" if spec.rollout.name == "vllm" else "CPUs"
        raise SpecError(f"rollout.name={spec.rollout.name} runs on {wanted} only ({placement.reason}). Leave it out")
    return spec.rollout.name


def reasons(spec: PpoSpec, placement: Placement) -> list[str]:
    """What was decided by the device, for `--dry-run`."""
    if spec.rollout.name != "auto":
        return []
    where = "on GPUs" if placement.device == "cuda" else "on CPUs, where vLLM takes no new weights from verl"
    return [f"rollout:   {rollout_name(spec, placement)} ({where})"]


def _algorithm(spec: PpoSpec) -> Keys:
    """The KL to the first model is part of the reward, or for GRPO of the loss, as in verl's examples."""
    kl = spec.kl_coef > 0
    in_loss = spec.algorithm == "grpo"
    return {
        "algorithm.adv_estimator": ESTIMATORS[spec.algorithm],
        "algorithm.use_kl_in_reward": kl and not in_loss,
        "algorithm.kl_ctrl.kl_coef": spec.kl_coef,
        f"{POLICY}.actor.use_kl_loss": kl and in_loss,
        f"{POLICY}.actor.kl_loss_coef": spec.kl_coef,
        f"{POLICY}.actor.kl_loss_type": "low_var_kl",
    }


def _data(spec: PpoSpec, folder: TrainingFolder) -> Keys:
    train = str(folder.data / "train.parquet")
    return {
        "data.train_files": train,
        "data.val_files": str(folder.data / "val.parquet") if spec.val else train,  # verl wants some, and never asks it
        "data.val_max_samples": -1 if spec.val else 1,
        "data.train_batch_size": spec.batch_size,
        "data.max_prompt_length": spec.rollout.max_prompt_length,
        "data.max_response_length": spec.rollout.max_response_length,
        "data.dataloader_num_workers": 0,  # prompts are short, and the loader's state is part of a checkpoint
        "data.seed": spec.seed,
    }


def _policy(spec: PpoSpec, placement: Placement) -> Keys:
    actor = f"{POLICY}.actor"
    keys = {
        **model_keys(f"{POLICY}.model", spec, placement),
        **lora_keys(f"{POLICY}.model", spec),
        **engine_keys(f"{actor}.fsdp_config", spec, placement),
        **engine_keys(f"{POLICY}.ref.fsdp_config", spec, placement),
        f"{actor}.strategy": "fsdp2",
        f"{actor}.optim.lr": spec.lr,
        f"{actor}.ppo_mini_batch_size": spec.update_size,
        f"{actor}.ppo_micro_batch_size_per_gpu": _micro_batch(spec, placement),
        f"{actor}.use_dynamic_bsz": packs(spec, placement),  # the reference and the critic follow
        f"{actor}.ppo_max_token_len_per_gpu": _most_tokens(spec),
        f"{actor}.data_loader_seed": spec.seed,
        f"{POLICY}.ref.log_prob_micro_batch_size_per_gpu": _micro_batch(spec, placement),
    }
    return keys | ({f"{actor}.use_torch_compile": False} if placement.device == "cpu" else {})


def _micro_batch(spec: PpoSpec, placement: Placement) -> int:
    return divisor(spec.update_size * spec.n // placement.workers, spec.micro_batch_size)


def _most_tokens(spec: PpoSpec) -> int:
    """Of packed answers at once; one of any length fits."""
    return max(spec.max_tokens_per_gpu, spec.rollout.max_prompt_length + spec.rollout.max_response_length)


def _rollout(spec: PpoSpec, placement: Placement) -> Keys:
    group, wanted = f"{POLICY}.rollout", spec.rollout
    name = rollout_name(spec, placement)
    keys = {
        f"{group}.name": name,
        f"{group}.n": spec.n,
        f"{group}.temperature": wanted.temperature,
        f"{group}.tensor_model_parallel_size": wanted.tensor_parallel_size,
        f"{group}.gpu_memory_utilization": wanted.gpu_memory_utilization,
        f"{group}.dtype": dtype(spec, placement),
        f"{group}.log_prob_micro_batch_size_per_gpu": _micro_batch(spec, placement),
        f"{group}.agent.num_workers": _helpers(placement),
        f"{group}.seed": spec.seed,
        "reward.reward_model.rollout.name": name,  # never started, but verl wants to know
    }
    if name == "hf_cpu":
        keys[f"{group}.free_cache_engine"] = False
    elif spec.lora:
        keys[f"{group}.load_format"] = "safetensors"  # only the small matrices are sent later
    return keys


def _critic(spec: PpoSpec, placement: Placement) -> Keys:
    return {
        **model_keys("critic.model", spec, placement, spec.critic.model),
        **engine_keys("critic.fsdp", spec, placement),
        "critic.strategy": "fsdp2",
        "critic.optim.lr": spec.critic.lr,
        "critic.ppo_micro_batch_size_per_gpu": _micro_batch(spec, placement),
        "critic.ppo_max_token_len_per_gpu": _most_tokens(spec),
        "critic.data_loader_seed": spec.seed,
    }


def _reward(spec: PpoSpec, placement: Placement, rules: Mapping[str, str]) -> Keys:
    function, arguments = _reward_function(spec, rules)
    keys: Keys = {
        "reward.num_workers": _helpers(placement),
        "reward.custom_reward_function.path": REWARDS,
        "reward.custom_reward_function.name": function,
    }
    return keys | ({"reward.custom_reward_function.reward_kwargs": arguments} if arguments else {})


def _reward_function(spec: PpoSpec, rules: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """The function of our rewards module and its arguments. Raises SpecError."""
    if spec.reward == "judge":
        arguments = spec.judge.model_dump(exclude={"prompt"}, exclude_none=True)
        return "judge", arguments | ({"prompt": _read_prompt(spec.judge.prompt)} if spec.judge.prompt else {})
    if spec.reward in rules:
        place, _, name = rules[spec.reward].rpartition(":")
    else:
        place, name = _reward_file(spec, rules)
    return "user_function", {
        "path": place,
        **({"name": name} if name else {}),
        **({"arguments": spec.reward_arguments} if spec.reward_arguments else {}),
    }


def _reward_file(spec: PpoSpec, rules: Mapping[str, str]) -> tuple[str, str]:
    """The absolute path of the user's file, and the name of the function. Raises SpecError."""
    path, _, name = spec.reward.partition(":")
    if not path.endswith(".py"):
        known = ", ".join((*rules, "judge"))
        raise SpecError(f"reward={spec.reward} is neither one of {known} nor a Python file. Expected path/to/file.py")
    file = local_path(path).absolute()
    if not file.is_file():
        raise SpecError(f"there is no file {file} for reward={spec.reward} (relative to {Path.cwd()})")
    return str(file), name


def _read_prompt(path: Path) -> str:
    try:
        return local_path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read judge.prompt={path}: {error}") from None


def _helpers(placement: Placement) -> int:
    return min(MOST_HELPERS, placement.workers)
