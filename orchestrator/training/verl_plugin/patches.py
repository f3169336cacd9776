"""Patches to verl that also apply on GPUs."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from orchestrator.training.verl_plugin import packed

CHUNK = 2**28  # logits held in float32 at once: 1 GiB


def compute_log_probs_without_flash_attention() -> None:
    """Without flash-attn's cross entropy verl 0.9.1 loops over the tokens: benchmarks/README.md has what that costs."""
    from verl.utils import torch_functional

    torch_functional.logprobs_from_logits_v2 = log_probs  # looked up by verl's logprobs_from_logits


def log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log probability of each label, in float32; `logits` [..., vocabulary] of any float type, `labels` [...]."""
    flat: torch.Tensor = TokenLogProbs.apply(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    return flat.view(labels.shape)


class TokenLogProbs(torch.autograd.Function):
    """log softmax(logits)[label] in float32, some rows at a time; the softmax is made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`logits` [tokens, vocabulary], `labels` [tokens]; returns [tokens]."""
        found = torch.empty(len(labels), dtype=torch.float32, device=logits.device)
        norms = torch.empty_like(found)
        forward = _fused(_forward) if logits.is_cuda else _forward
        for rows in _chunks(logits):
            found[rows], norms[rows] = forward(logits[rows], labels[rows])
        ctx.save_for_backward(logits, labels, norms)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, labels, norms = ctx.saved_tensors
        result = torch.empty_like(logits)
        backward = _fused(_backward) if logits.is_cuda else _backward
        for rows in _chunks(logits):
            result[rows] = backward(logits[rows], labels[rows], norms[rows], gradient[rows])
        return result, None


def _forward(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities, and the logarithms of the sums that they were divided by."""
    part = logits.float()
    norms = part.logsumexp(-1)
    return part.gather(-1, labels[:, None]).squeeze(-1) - norms, norms


def _backward(logits: torch.Tensor, labels: torch.Tensor, norms: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """d log softmax(x)[l] / dx = onehot(l) - softmax(x)."""
    chosen = torch.arange(logits.shape[-1], device=logits.device) == labels[:, None]
    return ((chosen.float() - (logits.float() - norms[:, None]).exp()) * gradient[:, None].float()).to(logits.dtype)


@functools.cache
def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """A pass over the logits instead of one for each operation."""
    return _compile(function)


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Only when it is wanted: torch's compiler leaves a folder on the machine as soon as it is imported.

    A machine without a C compiler, or a model that torch.compile does not take, trains as well, only slower.
    """
    torch._dynamo.config.suppress_errors = True
    return torch.compile(function)


def _chunks(logits: torch.Tensor) -> list[slice]:
    size = max(1, CHUNK // logits.shape[-1])
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def load_value_head_without_flash_attention() -> None:
    """verl 0.9.1 asks for flash_attention_2 whenever it loads a critic, whatever the configuration says."""
    from verl.utils import model

    model.load_valuehead_model = _load_value_head  # verl's engines look it up when they build a critic


def _load_value_head(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
    """The model with a head of one output a token, in place of verl's function of the same arguments."""
    from transformers import AutoModelForTokenClassification

    return AutoModelForTokenClassification.from_pretrained(
        local_path,
        dtype=torch_dtype,
        config=model_config,
        attn_implementation=_attention(model_config),
        trust_remote_code=trust_remote_code,
    )


def _attention(model_config: Any) -> str:
    """What the configuration names; verl's default, flash attention, only where it is installed."""
    from transformers.utils import is_flash_attn_2_available

    named: str = getattr(model_config, "_attn_implementation", None) or "sdpa"
    return "sdpa" if named == "flash_attention_2" and not is_flash_attn_2_available() else named


def compile_layers(model: torch.nn.Module) -> None:
    """Fuse what the layers of a transformers model do between their matrix products.

    One at a time, because FSDP gathers the weights of each before it runs; all share the code, which is compiled at the
    first step.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    packed.install(compiled=True)
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.forward = _compile(layer.forward)


def gather_once(engine: Any) -> None:
    """Keep the gathered weights from one micro batch to the next, of a verl engine that does not free them in between.

    fsdp2, which it must have, gives them back after each backward pass, though only an optimizer's step changes them.
    """
    inner = engine._gradient_sync_context

    @contextmanager
    def context(*, is_last_micro_batch: bool) -> Iterator[None]:
        engine.module.set_reshard_after_backward(is_last_micro_batch)
        with inner(is_last_micro_batch=is_last_micro_batch):
            yield

    engine._gradient_sync_context = context
