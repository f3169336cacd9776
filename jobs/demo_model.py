"""The demo's model: a Qwen3-shaped network of half a million parameters, made and trained on the spot.

It needs no network: a byte-level BPE tokenizer and the weights learn on two CPU cores from questions of the sixteen
families of `jobs.demo_exam`, from their training side only. Steps, seed and data are fixed, so every run gives the same
model. Two things make it quick. The system prompt is the same everywhere, so a step runs it once and all conversations
of the batch go on from its keys and values. And Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) trains the
hidden matrices: in a first trial of 300 steps the model then answered 47 %, with AdamW alone 29 %.
"""

import hashlib
import itertools
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobs import demo_exam
from jobs.demo_exam import FAMILIES, questions
from orchestrator.errors import Parser, SpecError, run_command, storage_error

SYSTEM_PROMPT = Path(__file__).parent / "tasks" / "prompts" / "hle_system.txt"
STEPS = 320
BATCH_SIZE = 32
N_TOKENIZER_CONVERSATIONS = 1600
VOCAB_SIZE = 1024
THREADS = 2

CONTEXT = 1024  # tokens
RECIPE = "recipe.json"

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What the template makes of a question and of its answer.
ASKED = START + "user\n{}" + END + "\n" + START + "assistant\n"
ANSWERED = "{}" + END
TURNS = ASKED + ANSWERED
# Digits and capitals of formulas, strands and codes stand alone, so that the model sees them one by one.
PIECES = r"\p{N}|\p{Lu}(?!\p{Ll})| ?\p{Lu}?\p{Ll}+|\n| ?[^\s\p{L}\p{N}]+|\s+"

Conversation = tuple[str, str]
Progress = Callable[[int, int, float], None]


def training_conversations(seed: int = 0, steps: int = STEPS) -> list[Conversation]:
    """All that the model is trained on, in order: from the training side, each family equally often."""
    rng = random.Random(f"train {seed}")
    sources = [questions(family, rng, held_out=False) for family in FAMILIES]
    asked = (next(source) for source in itertools.cycle(sources))
    return [(question.text, question.response) for question in itertools.islice(asked, steps * BATCH_SIZE)]


def read_system_prompt() -> str:
    return SYSTEM_PROMPT.read_text(encoding="utf-8").strip()


def make_model(out: Path, *, seed: int = 0, steps: int = STEPS, progress: Progress | None = None) -> None:
    """Make and train the model, and save it to `out` in Hugging Face's layout, all at once or not at all.

    Nothing happens if `out` holds the model of this recipe (code, system prompt, seed, steps) already; one of another
    recipe is replaced. `progress` hears after each step its number, the number of steps and the loss (nats a token).
    Raises SpecError if `out` is anything else, which is left alone.
    """
    recipe = _recipe(seed, steps)
    if (out / RECIPE).is_file() and (out / RECIPE).read_text() == recipe:
        return
    if out.exists() and not (out / RECIPE).is_file():
        raise SpecError(f"{out} exists and is no model of the demo. Give a folder that does not exist yet")
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bar for a single file would break into ours
    building = out.with_name(f".{out.name}.{os.getpid()}")
    building.mkdir(parents=True)
    try:
        tokenizer, model = _train(training_conversations(seed, steps), seed, progress)
        tokenizer.save_pretrained(building)
        model.save_pretrained(building)
        (building / RECIPE).write_text(recipe)
        shutil.rmtree(out, ignore_errors=True)
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _recipe(seed: int, steps: int) -> str:
    """What decides the weights, as JSON."""
    sources = (Path(__file__), Path(demo_exam.__file__), SYSTEM_PROMPT)
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return json.dumps({"seed": seed, "steps": steps, "sha256": digest})


def make_tokenizer(texts: Sequence[str]) -> Any:
    """A byte-level BPE tokenizer learned from `texts`: any text can be encoded, common words are one token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-untyped]
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(PIECES), "isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, in_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
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


def _train(pairs: Sequence[Conversation], seed: int, progress: Progress | None) -> tuple[Any, Any]:
    """Train tokenizer and weights on `pairs`, one batch after the other, the learning rate rising and falling once."""
    import torch

    torch.set_num_threads(THREADS)
    prefix = f"{START}system\n{read_system_prompt()}{END}\n"
    tokenizer = make_tokenizer([prefix, *(TURNS.format(*pair) for pair in pairs[:N_TOKENIZER_CONVERSATIONS])])
    model = make_network(tokenizer, seed)
    prefix_ids = torch.tensor([tokenizer(prefix).input_ids])
    optimizers = _optimizers(model)
    steps = len(pairs) // BATCH_SIZE
    schedules = [_one_cycle(optimizer, steps) for optimizer in optimizers]
    for step in range(steps):
        batch = _batch(tokenizer, pairs[step * BATCH_SIZE : (step + 1) * BATCH_SIZE])
        loss = _loss(model, prefix_ids, *batch)
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if progress:
            progress(step + 1, steps, loss.item())
    return tokenizer, model


def _optimizers(model: Any) -> list[Any]:
    """Muon for the matrices between hidden states, AdamW for embeddings and norms."""
    import torch

    hidden = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(hidden, lr=0.03, weight_decay=0.01),
        torch.optim.AdamW(others, lr=0.006, betas=(0.9, 0.98), weight_decay=0, fused=True),
    ]


def _one_cycle(optimizer: Any, steps: int) -> Any:
    import torch

    peak = optimizer.param_groups[0]["lr"]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, pct_start=0.1, cycle_momentum=False)


def _batch(tokenizer: Any, pairs: Sequence[Conversation]) -> tuple[Any, Any]:
    """Token ids and targets, both [batch, time]; the target is the next token of the response, -100 elsewhere."""
    import torch

    asked = [tokenizer(ASKED.format(question)).input_ids for question, _ in pairs]
    answered = [tokenizer(ANSWERED.format(response)).input_ids for _, response in pairs]
    width = max(len(question) + len(answer) for question, answer in zip(asked, answered, strict=True))
    ids, targets = torch.zeros(len(pairs), width, dtype=torch.long), torch.full((len(pairs), width), -100)
    for row, (question, answer) in enumerate(zip(asked, answered, strict=True)):
        start, end = len(question), len(question) + len(answer)
        ids[row, :end] = torch.tensor(question + answer)
        targets[row, start - 1 : end - 1] = ids[row, start:end]
    return ids, targets


def _loss(model: Any, prefix_ids: Any, ids: Any, targets: Any) -> Any:
    """Mean cross entropy of the responses; the common prefix [1, time] is run once for the whole batch."""
    from torch.nn.functional import cross_entropy

    past = model.model(prefix_ids, use_cache=True).past_key_values
    past.batch_repeat_interleave(len(ids))
    hidden = model.model(ids, past_key_values=past).last_hidden_state
    learned = targets != -100  # right padding needs no attention mask: nothing before it can see it
    return cross_entropy(model.lm_head(hidden[learned]), targets[learned])


def main() -> int:
    parser = Parser(description="Make and train the demo's small model on the CPU.")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and tokenizer")
    out = parser.parse_args().out.absolute()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads took three times the CPU on a busy machine
    try:
        make_model(out, progress=_show if sys.stderr.isatty() else None)
    except OSError as error:
        raise storage_error(error, out) from None
    print(out)
    return 0


def _show(step: int, steps: int, loss: float) -> None:
    end = "\n" if step == steps else ""
    print(f"\rtraining the demo's model: step {step}/{steps}, loss {loss:.3f}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_command(main)
