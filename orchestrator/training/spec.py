"""The specs of the training jobs: few keys in the field's terms. Any other key of verl goes under `verl:`."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from orchestrator.spec import SpecModel, WandbSpec

Algorithm = Literal["ppo", "grpo", "rloo"]


class LoraSpec(SpecModel):
    """Train small matrices beside the model's own, which stay as they are."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    target_modules: str | list[str] = "all-linear"


class TrainingSpec(SpecModel):
    """What fine-tuning and reinforcement learning have in common."""

    model: str  # a folder, or a name on the hub
    train: str  # a JSON, JSONL, CSV or Parquet file, or a data set's name on the hub, owner/name[:subset]
    val: str | None = None
    train_split: str = "train"  # of a data set of the hub
    val_split: str = "test"
    run: str | None = None  # the run folder: a name below the cluster's run root, or an absolute path

    # Processes, a GPU each where there are any; auto: the most GPUs that fit and divide the batch, or 1 process.
    workers: PositiveInt | Literal["auto"] = "auto"
    device: Literal["auto", "cuda", "cpu"] = "auto"  # auto: GPUs where the cluster has any
    epochs: PositiveInt = 1
    max_steps: PositiveInt | None = None  # steps; stops the training earlier
    batch_size: PositiveInt = 256  # rows a step, of all workers together
    micro_batch_size: PositiveInt = 4  # at most so many padded rows at once on a worker; decides memory, not results
    max_tokens_per_gpu: PositiveInt = 8192  # of packed rows at once, likewise
    lora: LoraSpec | None = None
    gradient_checkpointing: bool = True  # a third more time for far less memory
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"  # of the computation; weights and optimizer are float32
    attention: Literal["auto", "sdpa", "flash_attention_2"] = (
        "auto"  # auto: flash-attn where it is installed, or torch's
    )
    seed: int = 1

    save_every: PositiveInt = 50  # steps; the last one is always saved
    keep_checkpoints: PositiveInt | None = 2  # the newest; null keeps all
    validate_every: PositiveInt | None = None  # steps; default: whenever a checkpoint is saved
    timeout: PositiveFloat = 3600  # seconds without a sign of life after which a trainer is killed and started again
    max_failures: PositiveInt = 3  # in a row without a newer checkpoint, after which the job gives up
    wandb: WandbSpec = WandbSpec()
    verl: dict[str, Any] = {}  # any key of verl's, nested or dotted; it wins over what is said above

    @property
    def basename(self) -> str:
        return Path(self.model).name


class SftSpec(TrainingSpec):
    """All keys of `conf/sft-gsm8k.yaml`."""

    lr: PositiveFloat = 1e-5
    max_length: PositiveInt = 1024  # tokens; longer rows are left out, and counted
    packing: bool | Literal["auto"] = "auto"  # rows without padding, micro batches by tokens; auto: on GPUs

    @model_validator(mode="after")
    def _rows_fit(self) -> "SftSpec":
        if self.packing is not False and self.max_tokens_per_gpu < self.max_length:
            raise ValueError(
                f"max_tokens_per_gpu={self.max_tokens_per_gpu} is less than a row of max_length={self.max_length}"
            )
        return self

    @property
    def run_name(self) -> str:
        return self.run or f"sft_{self.basename}"


class RolloutSpec(SpecModel):
    """How answers are sampled during the training."""

    name: Literal["auto", "vllm", "hf_cpu"] = "auto"  # auto: vLLM on GPUs, transformers on CPUs
    n: PositiveInt | None = None  # answers a prompt; default: 1 for ppo, 5 for the others
    temperature: PositiveFloat = 1.0
    max_prompt_length: PositiveInt = 512  # tokens; longer prompts are left out, and counted
    max_response_length: PositiveInt = 512
    gpu_memory_utilization: float = Field(default=0.5, gt=0, le=1)  # vLLM's share; the trainer needs the rest
    tensor_parallel_size: PositiveInt = 1


class CriticSpec(SpecModel):
    """The value model of `algorithm=ppo`; the others have none."""

    model: str | None = None  # default: starts as the model that is trained
    lr: PositiveFloat = 1e-5


class JudgeSpec(SpecModel):
    """The model that gives rewards with `reward=judge`, behind any OpenAI-compatible URL."""

    model: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None  # names the variable that holds its key
    prompt: Path | None = None  # a file with {question}, {solution} and {ground_truth}
    window: PositiveInt = 32  # requests in flight of each reward worker
    request_timeout: PositiveFloat = 120  # seconds
    options: dict[str, Any] = {}  # other fields of the request, for example temperature


class PpoSpec(TrainingSpec):
    """All keys of `conf/ppo-gsm8k.yaml`.

    `algorithm` chooses what verl's examples choose for it: `ppo` has a critic (GAE), one answer a prompt and the KL
    penalty in the reward; `grpo` compares 5 answers a prompt and has the KL in its loss; `rloo` compares 5, with the
    KL in the reward.
    """

    algorithm: Algorithm = "ppo"
    lr: PositiveFloat = 1e-6
    kl_coef: NonNegativeFloat = 0.001  # of the distance to the first model; 0 needs no copy of that
    critic: CriticSpec = CriticSpec()
    rollout: RolloutSpec = RolloutSpec()
    mini_batch_size: PositiveInt | None = None  # prompts an update; default: batch_size, one update a step
    reward: str = "gsm8k"  # gsm8k | exact_match (rules that the job names) | judge | path/to/file.py[:function]
    reward_arguments: dict[str, Any] = {}  # further arguments of the file's function
    judge: JudgeSpec = JudgeSpec()
    question_key: str | None = None  # columns of the data, where they have names of their own
    answer_key: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> "PpoSpec":
        if self.algorithm != "ppo" and self.rollout.n == 1:
            raise ValueError(f"algorithm={self.algorithm} compares answers to one prompt: rollout.n=1 is too few")
        if self.batch_size % self.update_size:
            raise ValueError(
                f"batch_size={self.batch_size} is not a multiple of mini_batch_size={self.mini_batch_size}"
            )
        if self.reward == "judge" and not (self.judge.model and self.judge.base_url):
            raise ValueError("reward=judge needs judge.model= and judge.base_url=")
        return self

    @property
    def n(self) -> int:
        return self.rollout.n or (1 if self.algorithm == "ppo" else 5)

    @property
    def update_size(self) -> int:
        return self.mini_batch_size or self.batch_size

    @property
    def run_name(self) -> str:
        return self.run or f"{self.algorithm}_{self.basename}"
