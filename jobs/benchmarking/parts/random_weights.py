"""Random weights for a model folder that has none; verl imports this on each rank, as `model.external_lib` says.

Zeros would not do: a GPU draws less power on them, and so may run faster than on weights.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

BLOCK = 2**24  # random numbers that repeat: to draw each of 70 billion would take a CPU minutes
DEVIATION = 0.02  # Llama's initializer_range


def from_shape(*, config: Any, torch_dtype: torch.dtype, **_: Any) -> Any:
    """In the place of `from_pretrained`, as verl calls it: the model of `config`. Ranks that get their weights from
    others have it on the meta device, and nothing is drawn there."""
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch_dtype)
    generator = torch.Generator().manual_seed(0)
    block = DEVIATION * torch.randn(BLOCK, generator=generator, dtype=torch_dtype)
    for weight in model.parameters():
        if weight.dim() > 1 and not weight.is_meta:  # norms are ones already
            for part in weight.data.view(-1).split(BLOCK):
                part.copy_(block[: len(part)])
    return model


AutoModelForCausalLM.from_pretrained = staticmethod(from_shape)
