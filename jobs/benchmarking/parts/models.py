"""The models that the benchmark trains and serves: shapes with random weights, which need no download."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.console import say
from orchestrator.training.config.common import local_or_hub

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
PAD, START, END, UNKNOWN = SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|unknown|>"]
ROLES = ["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Preset:
    """A shape of Llama, as its config.json has it, and how it is trained: for Llama 2, as the seed's benchmark does."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    micro_batch_size: int  # rows at once on a GPU
    lr: float
    offload: bool = False  # weights, gradients and optimizer into the host's memory
    vocab_size: int = 32_000
    length: int = 2048  # tokens a row
    head_dim: int | None = None  # None: hidden_size / heads

    def config(self) -> dict[str, Any]:
        """config.json as transformers and vLLM read it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim or self.hidden_size // self.heads,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
            "pad_token_id": SPECIAL.index(PAD),
            "eos_token_id": SPECIAL.index(END),
            "bos_token_id": None,
        }


PRESETS = {
    "7b": Preset(4096, 11_008, 32, 32, 32, micro_batch_size=8, lr=2e-4),
    "8b": Preset(4096, 14_336, 32, 32, 8, micro_batch_size=8, lr=2e-4, vocab_size=128_256),  # Llama 3's
    "13b": Preset(5120, 13_824, 40, 40, 40, micro_batch_size=4, lr=1.5e-4),
    # Qwen3's, but for the norms of queries and keys, which are 16,384 of its parameters.
    "32b": Preset(5120, 25_600, 64, 64, 8, micro_batch_size=2, lr=1e-4, offload=True, vocab_size=151_936, head_dim=128),
    "70b": Preset(8192, 28_672, 80, 64, 8, micro_batch_size=2, lr=1e-4, offload=True),
    "tiny": Preset(64, 128, 2, 2, 2, micro_batch_size=2, lr=1e-3, vocab_size=512, length=64),
}


@dataclass(frozen=True, slots=True)
class BenchModel:
    """What is measured. `preset` is None for a model from elsewhere."""

    name: str
    source: str  # a folder, or a name on the hub
    preset: Preset | None
    random_weights: bool  # since it has none of its own


def find_model(name: str, folder: Path) -> BenchModel:
    """The model that a spec names; a preset is written below `folder`, which all nodes must see."""
    if name not in PRESETS:
        source = local_or_hub(name)
        if shape := _is_shape(Path(source)):
            say(f"{source} has no weights: random ones are measured")
        return BenchModel(name, source, None, random_weights=shape)
    made = folder.absolute() / "models" / name
    make_model(made, PRESETS[name])
    return BenchModel(name, str(made), PRESETS[name], random_weights=True)


def _is_shape(path: Path) -> bool:
    """Whether a model's folder is here and holds no weights."""
    return (path / "config.json").exists() and not any(file for kind in WEIGHTS for file in path.glob(kind))


def make_model(folder: Path, preset: Preset) -> None:
    """Write a config and a tokenizer whose every token is a word: the numbers from 0. There are no weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, __version__

    folder.mkdir(parents=True, exist_ok=True)
    words = [*SPECIAL, *ROLES]
    words += map(str, range(preset.vocab_size - len(words)))
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    # Without its version transformers takes a vocabulary of more than 100,000 words for one of Mistral's, and warns.
    config = preset.config() | {"transformers_version": __version__}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
