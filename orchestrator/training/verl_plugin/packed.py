"""Attention over packed rows without flash-attn: several conversations one after the other, none sees another.

verl packs where `use_remove_padding` is set, and tells rows apart by their positions alone, each of which begins at 0.
transformers has kernels for that only in the flash-attn package; torch's own (2.11 or newer) needs no such build.
"""

from typing import Any

import torch
import torch.nn.functional as F

from orchestrator.training.environment import PACKED

UNSUPPORTED = ("softcap", "s_aux")  # of some models: a cap on the scores, a sink


def install(*, compiled: bool = False) -> None:
    """Make the name known to transformers, which then makes no mask: the rows' bounds are all there is to know.

    `compiled`: the layers are, and this stays out of it, since code must not depend on bounds, which are data.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, torch.compiler.disable(attention) if compiled else attention)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    position_ids: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' interface. `query` [1, heads, tokens, size], `key` and `value` with as many or fewer heads;
    `position_ids` [1, tokens]. Returns [1, tokens, heads, size]. Raises ValueError for what it does not do."""
    if position_ids is None or len(query) != 1 or attention_mask is not None:
        raise ValueError(f"{PACKED} is for packed rows without a mask; padded rows need sdpa")
    if dropout or any(more.get(name) is not None for name in UNSUPPORTED):
        missing = f"{PACKED} has neither dropout nor {' nor '.join(UNSUPPORTED)}"
        raise ValueError(f"{missing}; give attention=sdpa, and for a fine-tuning packing=false")
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    kernel = _torch_kernel if query.is_cuda else _row_by_row
    return kernel(q, k, v, _bounds(position_ids), scaling, sliding_window).unsqueeze(0), None


class _Bounds:
    """Where rows begin, and the end of the last one; `longest` in tokens."""

    def __init__(self, position_ids: torch.Tensor) -> None:
        self.of = position_ids
        starts = (position_ids[0] == 0).nonzero().flatten()
        if position_ids[0, 0] != 0:
            raise ValueError("a row begins elsewhere: sequence parallelism needs flash-attn")
        self.offsets = F.pad(starts, (0, 1), value=position_ids.shape[1]).to(torch.int32)
        self.lengths: list[int] = self.offsets.diff().tolist()
        self.longest = max(self.lengths)


_last: _Bounds | None = None


def _bounds(position_ids: torch.Tensor) -> _Bounds:
    """The same for all layers of a model: the device is waited for once a batch, not once a layer."""
    global _last
    if _last is None or _last.of is not position_ids:
        _last = _Bounds(position_ids)
    return _last


def _torch_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: _Bounds,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """[tokens, heads, size], by torch's flash attention for rows of various lengths."""
    from torch.nn.attention.varlen import varlen_attn

    groups = query.shape[1] // key.shape[1]  # torch 2.11 wants as many heads of each kind
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    reach = (window - 1 if window else -1, 0)  # tokens before the own one, and after
    offsets, longest = bounds.offsets, bounds.longest
    found = varlen_attn(query, key, value, offsets, offsets, longest, longest, scale=scale, window_size=reach)
    assert isinstance(found, torch.Tensor)
    return found


def _row_by_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: _Bounds,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """The same on CPUs, where torch has no such kernel."""
    found = []
    by_row = (tensor.transpose(0, 1)[None].split(bounds.lengths, 2) for tensor in (query, key, value))
    for q, k, v in zip(*by_row, strict=True):
        near = None if window is None else torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril().triu(1 - window)
        row = F.scaled_dot_product_attention(q, k, v, near, is_causal=near is None, scale=scale, enable_gqa=True)
        found.append(row[0].transpose(0, 1))
    return torch.cat(found)
