"""The rollout `hf_cpu`: answers sampled by transformers, because vLLM on CPUs takes no new weights from verl."""

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
import torch
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

SERVER = "hf_cpu_server_{}"  # the name of a replica's actor, in the namespace of the training's Ray job
PADDING = 0  # any token: the attention mask hides it


class Sampling(NamedTuple):
    """Requests of the same sampling are answered together."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


@dataclass
class PromptBatch:
    """Prompts that wait for the model, and the task that answers them all."""

    prompts: list[list[int]] = field(default_factory=list)
    answers: asyncio.Task[list[TokenOutput]] | None = None


class HFServer:
    """One copy of the model. While it generates, the next requests gather in a batch."""

    def __init__(self, path: str, response_length: int, max_batch: int, trust_remote_code: bool) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, trust_remote_code=trust_remote_code
        ).eval()
        ends = self._model.generation_config.eos_token_id
        ends = self._model.config.eos_token_id if ends is None else ends
        self._ends: list[int] = list(ends) if isinstance(ends, list | tuple) else [ends]
        self._response_length, self._max_batch = response_length, max_batch
        self._version: int | None = None  # the training step that the weights come from
        self._busy = asyncio.Lock()
        self._gathering: dict[Sampling, PromptBatch] = {}

    async def ready(self) -> bool:
        return True

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        """One answer; verl's interface of a rollout server."""
        sampling = Sampling(
            temperature=float(sampling_params.get("temperature", 1.0)),
            top_p=float(sampling_params.get("top_p", 1.0)),
            top_k=max(int(sampling_params.get("top_k", 0)), 0),  # vLLM switches it off with -1, transformers with 0
            max_tokens=sampling_params.get("max_tokens") or self._response_length,
        )
        batch = self._gathering.get(sampling)
        if batch is None or len(batch.prompts) >= self._max_batch:
            batch = self._gathering[sampling] = PromptBatch()
            batch.answers = asyncio.create_task(self._answer(batch, sampling))
        index = len(batch.prompts)
        batch.prompts.append(list(prompt_ids))
        assert batch.answers
        return (await asyncio.shield(batch.answers))[index]

    async def update_weights(self, weights: dict[str, torch.Tensor], version: int | None) -> None:
        async with self._busy:
            loaded = self._model.load_state_dict(weights, strict=False)
            tied = set(getattr(self._model, "all_tied_weights_keys", None) or ())
            missing = [name for name in loaded.missing_keys if name not in tied]
            if missing or loaded.unexpected_keys:
                raise RuntimeError(f"the trainer sent other weights: without {missing}, with {loaded.unexpected_keys}")
            self._version = version

    async def _nothing(self, *_: Any, **__: Any) -> dict[str, Any]:
        """There are no cache and no weights to release: the trainer and we share the machine's memory."""
        return {}

    wake_up = sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = _nothing
    abort_all_requests = resume_generation = start_profile = stop_profile = _nothing

    async def _answer(self, batch: PromptBatch, sampling: Sampling) -> list[TokenOutput]:
        async with self._busy:
            if self._gathering.get(sampling) is batch:
                del self._gathering[sampling]
            return await asyncio.to_thread(self._sample, batch.prompts, sampling)

    @torch.no_grad()
    def _sample(self, prompts: list[list[int]], sampling: Sampling) -> list[TokenOutput]:
        width = max(map(len, prompts))
        choice = {"do_sample": False}
        if sampling.temperature:
            choice = {"do_sample": True} | sampling._asdict()
            del choice["max_tokens"]
        done = self._model.generate(
            input_ids=torch.tensor([[PADDING] * (width - len(prompt)) + prompt for prompt in prompts]),
            attention_mask=torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
            max_new_tokens=sampling.max_tokens,
            eos_token_id=self._ends,
            pad_token_id=PADDING,
            remove_invalid_values=True,  # as in vLLM, weights that are NaN show in the trainer's loss and not here
            return_dict_in_generate=True,
            output_scores=True,
            **choice,
        )
        tokens = done.sequences[:, width:]
        scores = torch.stack(done.scores, dim=1).log_softmax(-1)
        log_probs = scores.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        return [self._output(*row) for row in zip(tokens.tolist(), log_probs.tolist(), strict=True)]

    def _output(self, tokens: list[int], log_probs: list[float]) -> TokenOutput:
        length = next((index + 1 for index, token in enumerate(tokens) if token in self._ends), len(tokens))
        return TokenOutput(
            token_ids=tokens[:length],
            log_probs=log_probs[:length],
            stop_reason="completed",
            num_preempted=0,
            extra_fields={"global_steps": self._version},
        )


class HFReplica(RolloutReplica):
    """Starts one server for each process of the trainer."""

    async def launch_servers(self) -> None:
        name = SERVER.format(self.replica_rank)
        server = (
            ray.remote(HFServer)
            .options(num_cpus=0, name=name, max_concurrency=self.max_concurrency)
            .remote(
                self.model_config.path,
                self.config.response_length,
                self.config.max_num_seqs,
                self.model_config.trust_remote_code,
            )
        )
        await server.ready.remote()
        self.servers, self._server_handle, self._server_address = [server], server, name


class HFRollout(BaseRollout):
    """The trainer's end: sends the weights of its process to the server of the same rank."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1, **_: Any) -> None:
        super().__init__(config, model_config, device_mesh)
        if self.config.tensor_model_parallel_size != 1:
            raise ValueError("the rollout hf_cpu splits no model: expected rollout.tensor_model_parallel_size=1")
        self._rank = int(os.environ["RANK"]) if replica_rank == -1 else replica_rank

    async def resume(self, tags: list[str]) -> None: ...

    async def release(self) -> None: ...

    @torch.no_grad()
    async def update_weights(
        self,
        weights: Iterable[tuple[str, torch.Tensor]],
        global_steps: int | None = None,
        wire_format: str = "named_tensors",
        **_: Any,
    ) -> None:
        if wire_format != "named_tensors":
            raise ValueError(f"the rollout hf_cpu takes whole tensors, not {wire_format}")
        copies = {name: tensor.detach().float().cpu().clone() for name, tensor in weights}
        await ray.get_actor(SERVER.format(self._rank)).update_weights.remote(copies, global_steps)
