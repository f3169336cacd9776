"""Models of real shapes with random weights, and rows of exact length, for measurements on GPUs without a network."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.tiny_model import write_tokenizer

PEAK = 989e12  # FLOP/s of an H100 or H200, dense bfloat16 (NVIDIA's data sheet without sparsity)
VOCABULARY = 151_936  # Qwen3's, so that the head costs what it does in the real model
# Qwen3-0.6B, 4B and 8B as their config.json has them, and one to try the measurement with on a CPU.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 8},
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "4b": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "8b": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
}
TIED = ("tiny", "0.6b", "4b")


def make_model(folder: Path, shape: str, vocabulary: int = VOCABULARY) -> int:
    """Write a model with random bfloat16 weights and a character tokenizer; its number of parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    config = Qwen3Config(
        **SHAPES[shape],
        vocab_size=vocabulary,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=shape in TIED,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def write_rows(path: Path, count: int, tokens: int | tuple[int, int], overhead: int) -> None:
    """`count` conversations as JSONL, each of exactly `tokens` tokens, or of a random number between the two.

    A character is a token; `overhead` is what the chat template adds to a conversation of one turn each.
    """
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz "
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            length = tokens if isinstance(tokens, int) else rng.randint(*tokens)
            text = "".join(rng.choices(letters, k=length - overhead - 10))
            turns = [{"role": "user", "content": "question: "}, {"role": "assistant", "content": text}]
            file.write(json.dumps({"messages": turns}) + "\n")


def template_overhead(folder: Path) -> int:
    """Tokens that the chat template adds to one question and its answer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    return len(tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"])


def flops_per_token(config: dict[str, Any], length: int) -> float:
    """FLOP a token of a training step, forward and backward: 6N + 12·L·H·Q·T (PaLM, arXiv 2204.02311, appendix B).

    N counts all parameters but the input embeddings (a tied head counts once), L layers, H heads, Q their size and
    T = `length` tokens of a row; recomputation is not counted.
    """
    hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    attention = hidden * size * (2 * heads + 2 * config["num_key_value_heads"])
    layer = attention + 3 * hidden * config["intermediate_size"]
    parameters = layers * layer + hidden * config["vocab_size"]
    return 6 * parameters + 12 * layers * heads * size * length
