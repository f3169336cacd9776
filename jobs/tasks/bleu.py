"""Corpus BLEU as sacrebleu computes it, out of counts that each answer adds to.

The counts of a translation are how many of its n-grams the reference has (n = 1 to 4), its length and the reference's
(in tokens). Summed over all translations they give the corpus BLEU exactly: so the answers need not be kept together.
The words of Japanese are found by Janome or nagisa, and joined by blanks for sacrebleu's tokenizer 13a.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from jobs.tasks.scoring_process import STARTING, ScoringProcess

COUNTS = ("correct_1", "correct_2", "correct_3", "correct_4", "length", "reference_length")
DEADLINE = 60.0  # seconds for one translation, which takes a few milliseconds
RESAMPLES = 1000
ORDERS = range(1, 5)

Segmenter = Literal["", "janome", "nagisa"]  # "": words are separated as they are
Counts = list[float]  # in the order of COUNTS


def counts(pairs: Sequence[tuple[str, str, Segmenter]], seconds: float = DEADLINE) -> list[Counts]:
    """The counts of each (translation, reference, segmenter), found in a process of its own. Raises CallFailed."""
    return _PROCESS.call(seconds, count, pairs)


def count(pairs: Sequence[tuple[str, str, Segmenter]]) -> list[Counts]:
    """`counts` within the process."""
    metric, found = _metric(), []
    for translation, reference, segmenter in pairs:
        split = _segmented(segmenter)
        one = metric.corpus_score([split(translation)], [[split(reference)]])
        found.append([float(number) for number in (*one.counts, one.sys_len, one.ref_len)])
    return found


def lengths_of_references(references: Sequence[tuple[str, Segmenter]]) -> list[Counts]:
    """The counts of translations that do not exist. Raises CallFailed."""
    return counts([("", reference, segmenter) for reference, segmenter in references], STARTING)


def corpus_bleu(rows: Iterable[Counts]) -> float:
    """BLEU, 0 to 100, of the translations with these counts."""
    return _bleu(np.sum([_with_totals(row) for row in rows], axis=0))


def bleu_interval(questions: Sequence[Sequence[Counts]]) -> list[float] | None:
    """Lower and upper end of the 95 % interval of the corpus BLEU; one entry for each question, of all its samples.

    By the bootstrap over questions: P. Koehn (2004), Statistical Significance Tests for Machine Translation Evaluation.
    The seed is fixed. None for less than two questions.
    """
    if len(questions) < 2:
        return None
    sums = np.array([np.sum([_with_totals(row) for row in rows], axis=0) for rows in questions])
    generator, n = np.random.default_rng(0), len(questions)
    drawn = (np.bincount(generator.integers(n, size=n), minlength=n) @ sums for _ in range(RESAMPLES))
    low, high = np.percentile([_bleu(one) for one in drawn], [2.5, 97.5])
    return [round(float(low), 2), round(float(high), 2)]


def signature() -> str:
    """sacrebleu's own description of what is computed."""
    metric = _metric()
    metric.corpus_score(["a"], [["a"]])  # which sets the number of references
    return str(metric.get_signature())


def described(segmenter: Segmenter) -> str:
    """A segmenter with its version."""
    return f"{segmenter} {version(segmenter)}" if segmenter else "none"


def _metric() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU()


def _with_totals(row: Counts) -> list[float]:
    """The counts with those of all n-grams of the translation, which its length gives."""
    *correct, length, reference_length = row
    return [*correct, *(max(0, length - order + 1) for order in ORDERS), length, reference_length]


def _bleu(sums: Any) -> float:
    from sacrebleu.metrics.bleu import BLEU

    numbers = [int(number) for number in sums]
    return float(BLEU.compute_bleu(numbers[:4], numbers[4:8], numbers[8], numbers[9], smooth_method="exp").score)


@cache
def _segmented(segmenter: Segmenter) -> Callable[[str], str]:
    if segmenter == "janome":
        from janome.tokenizer import Tokenizer

        tokenizer = Tokenizer()
        return lambda text: " ".join(str(word) for word in tokenizer.tokenize(text, wakati=True))
    if segmenter == "nagisa":
        import nagisa  # type: ignore[import-untyped]

        return lambda text: " ".join(nagisa.tagging(text).words)
    return lambda text: text


def import_segmenters() -> None:
    count([("猫", "猫", "janome"), ("猫", "猫", "nagisa")])


_PROCESS = ScoringProcess(warm=import_segmenters)
