"""Small PPO trainings: a tiny model, sums as prompts, and verl's configuration for them."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from orchestrator.training.folder import TrainingFolder
from tests.support.tiny_model import make_tiny_model

ROWS, BATCH = 26, 8  # three steps an epoch, and two rows that fill no batch
STEPS_PER_EPOCH = ROWS // BATCH
FP32 = "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
SDPA = "{attn_implementation:sdpa}"
REWARDS = '''\
from pathlib import Path

calls = 0


def digits(data_source, solution_str, ground_truth, extra_info=None, stop=None, after=0):
    """The share of digits. After so many calls the training is asked to stop."""
    global calls
    calls += 1
    if stop and calls > after:
        Path(stop).touch()
    return sum(letter.isdigit() for letter in solution_str) / 4


def raises(data_source, solution_str, ground_truth, extra_info=None, after=0):
    global calls
    calls += 1
    return 0.5 if calls <= after else len(solution_str) + None


async def not_a_number(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float("nan")}


def text(data_source, solution_str, ground_truth, extra_info=None):
    return "good"
'''


def make_ppo_data(folder: Path) -> Path:
    """`model/`, `train.parquet`, `val.parquet` and `rewards.py` in `folder`."""
    make_tiny_model(folder / "model")
    _write_prompts(folder / "train.parquet", ROWS)
    _write_prompts(folder / "val.parquet", 4)
    (folder / "rewards.py").write_text(REWARDS)
    return folder


def make_ppo_run(data: Path, path: Path, *overrides: str, reward: str = "digits", **arguments: Any) -> TrainingFolder:
    """A run folder whose `verl.yaml` is ready for the driver; the reward is a function of `rewards.py`."""
    from hydra import compose, initialize_config_module

    folder = TrainingFolder(path)
    folder.checkpoints.mkdir(parents=True)
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", [*_overrides(data, path), *overrides])
    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    resolved["reward"]["custom_reward_function"] = {
        "path": "pkg://orchestrator.training.trainer.rewards",
        "name": "user_function",
        "reward_kwargs": {"path": str(data / "rewards.py"), "name": reward, "arguments": arguments},
    }
    resolved["kosen"] = {"keep_checkpoints": 2}
    OmegaConf.save(OmegaConf.create(resolved), folder.verl_config)
    return folder


def _write_prompts(path: Path, count: int) -> None:
    import pandas as pd

    sums = [(number % 5, number * number % 7) for number in range(count)]
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": f"{number}: {a}+{b}=?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(a + b)},
            "extra_info": {"index": number},
        }
        for number, (a, b) in enumerate(sums)
    ]
    pd.DataFrame(rows).to_parquet(path)


def _overrides(data: Path, folder: Path) -> list[str]:
    """verl's keys for a run on one CPU: GAE with a critic, and the KL to the first model in the reward."""
    return [*_data(data), *_actor(data / "model"), *_critic(data / "model"), *_trainer(folder)]


def _data(data: Path) -> list[str]:
    return [
        "algorithm.adv_estimator=gae",
        "algorithm.use_kl_in_reward=True",
        "algorithm.kl_ctrl.kl_coef=0.001",
        f"data.train_files={data / 'train.parquet'}",
        f"data.val_files={data / 'val.parquet'}",
        f"data.train_batch_size={BATCH}",
        "data.max_prompt_length=48",
        "data.max_response_length=4",
        "data.dataloader_num_workers=0",
    ]


def _actor(model: Path) -> list[str]:
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    return [
        f"actor_rollout_ref.model.path={model}",
        f"+actor_rollout_ref.model.override_config={SDPA}",
        "actor_rollout_ref.model.use_remove_padding=False",
        "actor_rollout_ref.model.enable_gradient_checkpointing=False",
        f"{actor}.strategy=fsdp2",
        f"{actor}.optim.lr=2e-2",  # of `digits` 0.1 at the start, 0.9 and more after ten steps
        f"{actor}.ppo_mini_batch_size={BATCH}",
        f"{actor}.ppo_micro_batch_size_per_gpu={BATCH}",
        f"{actor}.use_torch_compile=False",
        f"+{actor}.fsdp_config.mixed_precision={FP32}",
        f"actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu={BATCH}",
        f"+actor_rollout_ref.ref.fsdp_config.mixed_precision={FP32}",
        f"{rollout}.name=hf_cpu",
        f"{rollout}.n=4",
        f"{rollout}.log_prob_micro_batch_size_per_gpu={BATCH}",
        f"{rollout}.tensor_model_parallel_size=1",
        f"{rollout}.agent.num_workers=1",
        f"{rollout}.free_cache_engine=False",
    ]


def _critic(model: Path) -> list[str]:
    return [
        f"critic.model.path={model}",
        f"+critic.model.override_config={SDPA}",
        "critic.model.use_remove_padding=False",
        "critic.model.enable_gradient_checkpointing=False",
        "critic.strategy=fsdp2",
        "critic.optim.lr=1e-2",
        f"critic.ppo_micro_batch_size_per_gpu={BATCH}",
        f"+critic.fsdp.mixed_precision={FP32}",
    ]


def _trainer(folder: Path) -> list[str]:
    return [
        "reward.num_workers=1",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
        "trainer.v1.trainer_mode=kosen",
        "trainer.device=cpu",
        "trainer.n_gpus_per_node=1",
        "trainer.nnodes=1",
        "trainer.logger=[console]",
        "trainer.val_before_train=False",
        "trainer.total_epochs=2",
        "trainer.save_freq=1",
        "trainer.test_freq=-1",
        "trainer.resume_mode=auto",
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        f"trainer.rollout_data_dir={folder / 'rollouts'}",
    ]
