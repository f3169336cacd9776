"""The demo's model before its training, and what `jobs.sft` trains it on: half a million parameters, shaped like Qwen3.

It needs no network: a byte-level BPE tokenizer that is learned here, random weights, and questions of the sixteen
families of `jobs.demo.exam`, from their training side only. Steps, seed and data are fixed, so every run gives the same
model. What makes it quick: the system prompt, the same in every conversation, is one token of the tokenizer, and
`jobs.demo.muon` trains the matrices.
"""

import hashlib
import itertools
import json
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.files import REPOSITORY
from jobs.demo import exam, muon
from jobs.demo.exam import FAMILIES, questions
from jobs.tasks.prompt_files import PROMPTS
from jobs.tasks.registry import DEFAULT_TASK
from orchestrator.errors import SpecError

SYSTEM_PROMPT = PROMPTS / f"{DEFAULT_TASK}_system.txt"
TRAINING = REPOSITORY / "conf" / "demo" / "sft.yaml"
STEPS = 320
BATCH_SIZE = 32
N_TOKENIZER_CONVERSATIONS = 1600
VOCAB_SIZE = 1024

CONTEXT = 1024  # tokens
RECIPE = "recipe.json"
UNTRAINED, ROWS = "untrained", "train.jsonl"
MERGED_MARKS = ("kosen-merge.json", RECIPE)  # of jobs.merge, and of demos before there was one

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Digits and capitals of formulas, strands and codes stand alone, so that the model sees them one by one.
PIECES = r"\p{N}|\p{Lu}(?!\p{Ll})| ?\p{Lu}?\p{Ll}+|\n| ?[^\s\p{L}\p{N}]+|\s+"

Message = dict[str, str]


def training_conversations(seed: int = 0, steps: int = STEPS) -> list[list[Message]]:
    """All that the model is trained on: from the training side, each family equally often."""
    rng = random.Random(f"train {seed}")
    system = {"role": "system", "content": read_system_prompt()}
    sources = [questions(family, rng, held_out=False) for family in FAMILIES]
    asked = (next(source) for source in itertools.cycle(sources))
    return [
        [system, {"role": "user", "content": question.text}, {"role": "assistant", "content": question.response}]
        for question in itertools.islice(asked, steps * BATCH_SIZE)
    ]


def read_system_prompt() -> str:
    return SYSTEM_PROMPT.read_text(encoding="utf-8").strip()


def make_start(out: Path, *, seed: int = 0, steps: int = STEPS) -> None:
    """Write `out`/made: the untrained model in Hugging Face's layout and its training rows, all at once or not at all.

    Nothing happens if they are of this recipe (code, system prompt, training's spec, seed, steps) already; else what
    was made by another one goes, `out`/made with the training in it and `out`/model that was merged of that.
    Raises SpecError if `out`/made is anything else, which is left alone.
    """
    made, model = out / "made", out / "model"
    recipe = _recipe(seed, steps)
    if (made / RECIPE).is_file() and (made / RECIPE).read_text() == recipe:
        return
    if made.exists() and not (made / RECIPE).is_file():
        raise SpecError(f"{made} exists and was not made by the demo. Give an --out that does not exist yet")
    draft = out / f".made.{os.getpid()}"
    draft.mkdir(parents=True)
    try:
        _write_start(draft, training_conversations(seed, steps), seed)
        (draft / RECIPE).write_text(recipe)
        if any((model / mark).is_file() for mark in MERGED_MARKS):
            shutil.rmtree(model)
        shutil.rmtree(made, ignore_errors=True)
        draft.rename(made)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _recipe(seed: int, steps: int) -> str:
    """What decides the weights, as JSON."""
    sources = (Path(__file__), Path(exam.__file__), Path(muon.__file__), SYSTEM_PROMPT, TRAINING)
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return json.dumps({"seed": seed, "steps": steps, "sha256": digest})


def _write_start(folder: Path, conversations: Sequence[list[Message]], seed: int) -> None:
    texts = [message["content"] for turns in conversations[:N_TOKENIZER_CONVERSATIONS] for message in turns[1:]]
    save_model(folder / UNTRAINED, make_tokenizer(texts, read_system_prompt(), VOCAB_SIZE), seed)
    lines = [json.dumps({"messages": turns}, ensure_ascii=False) for turns in conversations]
    (folder / ROWS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_tokenizer(texts: Sequence[str], system_prompt: str, size: int) -> Any:
    """A byte-level BPE tokenizer of at most `size` tokens, learned from `texts`, and one for the whole `system_prompt`.

    Any text can be encoded, and comes back as it was; common words are one token.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(PIECES), "isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, in_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([START + "system\nuser\nassistant\n", *texts], trainer)
    tokenizer.add_tokens([AddedToken(system_prompt, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=CONTEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_network(tokenizer: Any, seed: int) -> Any:
    """An untrained Qwen3 with random weights, two layers deep."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,  # the smallest that vLLM's attention takes on CPU
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def save_model(folder: Path, tokenizer: Any, seed: int) -> None:
    """An untrained model in Hugging Face's layout; the same seed gives the same weights."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer.save_pretrained(folder)
    make_network(tokenizer, seed).save_pretrained(folder)
