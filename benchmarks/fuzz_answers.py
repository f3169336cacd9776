"""Fuzzing of reading and comparing answers: nothing raises, nothing is slow, and an answer is equal to itself.

Most inputs are short, of the parts that responses are made of; one in 2,000 is 100,000 characters of one part or of
two, nested or not. The same seed gives the same inputs. A failing input is printed, to become a row of the tests.
"""

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jobs.tasks import answers, gsm8k

PARTS = [
    *"0123456789abcxyzABCDE+-*/=^_{}()[]<>|,.;:'\"`$%#&~\\ \n\t",
    *"√π∞°×−–½²₂ⁿ「」（）、。：一二アＡ７\u200b\u00ad\ufeff\u202f",
    *(
        "\\frac",
        "\\sqrt",
        "\\text{",
        "\\boxed{",
        "\\left(",
        "\\right)",
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "\\\\",
        "\\times",
    ),
    *(
        "\\pi",
        "\\ce{",
        "\\[",
        "\\]",
        "\\(",
        "\\)",
        "$$",
        "**",
        "```",
        "####",
        "Answer:",
        "Confidence:",
        "答え：",
        "確信度：",
        "A.",
        "(B)",
    ),
    *(
        "1e999999999",
        "10^10^10",
        "1,234",
        "1/3",
        "0.5",
        "85%",
        "9/10",
        "九十パーセント",
        "H2O",
        "Ca2+",
        "x = ",
        " or ",
        " and ",
        "degrees",
    ),
    *(
        "<think>",
        "</think>",
        "<|im_end|>",
        "</s>",
        '{"answer":',
        "<answer>",
        "</answer>",
        "The answer is ",
        "です",
        "👨\u200d👩",
        "\ud83d",
    ),
]


def fuzz(inputs: int, seed: int, slow: float) -> tuple[Counter[str], list[str]]:
    """Read and compare so many texts; returns how many were what, and a line for each input that raised or that took
    more than `slow` seconds of CPU."""
    choose = random.Random(seed)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    for number in range(inputs):
        text = _random_text(choose, long=number % 2000 == 1999)
        before = time.process_time()
        try:
            kind = _exercise(text, choose)
        except Exception as error:  # noqa: BLE001 - any at all is a finding
            kind = type(error).__name__
            failures.append(f"input {number} raised {kind}: {error} for {text[:200]!r}")
        spent = time.process_time() - before
        if spent > slow:
            kind = "slow"
            failures.append(f"input {number} took {spent:.1f} s: {len(text)} characters, {text[:40]!r}")
        counts[kind] += 1
    return counts, failures


def _random_text(choose: random.Random, *, long: bool) -> str:
    if long:
        part = "".join(choose.choices(PARTS, k=choose.randint(1, 2)))
        return part * (100_000 // len(part)) + choose.choice(["", "\nAnswer: 4", "9" * 5000])
    if choose.random() < 0.02:
        return choose.choice("([{^√-9_$") * choose.randint(30, 2500)
    return "".join(choose.choices(PARTS, k=choose.randint(1, 30)))


def _exercise(text: str, choose: random.Random) -> str:
    """Everything that a response goes through; what was read of it, in a word."""
    response = choose.choice(["", "Answer: ", "#### ", "\\boxed{", "確信度："]) + text
    answer, confidence = answers.read_answer(response)
    assert confidence is None or isinstance(confidence, int)
    assert answers.percent(text) is None or isinstance(answers.percent(text), int)
    stated = (text if answer is None else answer)[: answers.LONGEST_ANSWER]
    gold = choose.choice((text[:2000], choose.choice(PARTS), "".join(choose.choices(PARTS, k=6)), "B", "A, C"))
    answers.equivalent(stated, gold, choose.choice(("exactMatch", "multipleChoice")))
    gsm8k.same(response, gold)
    assert gsm8k.reward("fuzz", response, gold) in (0, 1)
    for one in (stated, text[: answers.LONGEST_ANSWER]):
        assert answers.equivalent(one, one, "exactMatch"), "not equal to itself"
    return "no answer" if answer is None else "an answer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow", type=float, default=0.5, help="CPU seconds an input may take")
    args = parser.parse_args()
    start = time.monotonic()
    counts, failures = fuzz(args.inputs, args.seed, args.slow)
    print(
        f"{args.inputs} inputs from seed {args.seed} in {time.monotonic() - start:.0f} s: {dict(counts.most_common())}"
    )
    for line in failures:
        print(f"failed: {line}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
