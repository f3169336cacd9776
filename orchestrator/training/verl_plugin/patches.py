"""What verl needs on GPUs too."""

from typing import Any


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
