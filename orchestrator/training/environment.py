"""The environment variables that every process of a training needs: its trainer, its Ray workers, its data readers."""

import os
from pathlib import Path

from orchestrator.training.folder import TrainingFolder

FOLDER_VARIABLE = "KOSEN_TRAINING_FOLDER"
PLUGIN = "orchestrator.training.verl_plugin"
PACKED = "packed_sdpa"  # the plugin's attention over packed rows, as transformers knows it
WANDB = (  # the tracker runs in a worker; its key does not go here
    "WANDB_BASE_URL",  # the user's own, for a server of theirs
    "WANDB_MODE",
    "WANDB_ENTITY",
    "WANDB_RUN_ID",
    "WANDB_RESUME",
    "WANDB_DIR",
    "WANDB_SILENT",
    "WANDB_INIT_TIMEOUT",
    "WANDB_FINISH_TIMEOUT",
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL",
)

OF_A_NODE = ("NCCL_SOCKET_IFNAME", "NCCL_SOCKET_FAMILY")  # each has found its own


def worker_env(cpu: bool, folder: Path | None = None) -> dict[str, str]:
    """What to give to Ray as `env_vars`: nothing secret, for Ray shows it.

    `cpu`: train on CPUs, with the platform of our plugin. `folder` is the run folder, on a disk that all nodes share.
    """
    variables = {
        "VERL_USE_EXTERNAL_MODULES": PLUGIN,
        "TOKENIZERS_PARALLELISM": "false",  # tokenizers warn, and may hang, when their process forks
    }
    variables |= {name: os.environ[name] for name in WANDB if name in os.environ}
    variables |= {name: text for name, text in os.environ.items() if name.startswith("NCCL_") and name not in OF_A_NODE}
    if folder:
        variables[FOLDER_VARIABLE] = str(folder)
    if cpu:
        threads = os.environ.get("OMP_NUM_THREADS", "1")  # all of a machine's workers share its cores
        variables |= {
            "VERL_PLATFORM": "cpu",
            "VLLM_TARGET_DEVICE": "cpu",  # verl imports vLLM, which does not detect it
            "OMP_NUM_THREADS": threads,
            "TQ_NUM_THREADS": threads,  # verl's queue warns at each call where its 8 are more than there are cores
        }
    return variables


def training_folder() -> TrainingFolder | None:
    """The run folder of the training that this process belongs to."""
    path = os.environ.get(FOLDER_VARIABLE)
    return TrainingFolder(Path(path)) if path else None
