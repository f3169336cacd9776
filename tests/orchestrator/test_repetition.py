"""What counts as a loop."""

import random

import pytest

from orchestrator.asking.repetition import has_loop

WORDS = [first + second for first in "abcdefghijklmnopqrstuvwxyz" for second in "aeiouklmnprst"]


def prose(count: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).sample(WORDS, count))


@pytest.mark.parametrize("period", [4, 5, 17, 64, 127, 128])
@pytest.mark.parametrize("before", [0, 1, 100])
def test_three_repeats_are_a_loop_and_two_are_not(period: int, before: int) -> None:
    block = prose(period, seed=period)
    assert has_loop(f"{prose(before, seed=1)} {block} {block} {block} and")
    assert not has_loop(f"{prose(before, seed=1)} {block} {block} and")


def test_longer_periods_and_older_loops_are_not_looked_for() -> None:
    assert not has_loop(" ".join([prose(150)] * 3))
    assert not has_loop(" ".join([prose(8)] * 3) + " " + " ".join(prose(300, seed) for seed in (1, 2)))


def test_one_different_token_breaks_the_loop() -> None:
    assert not has_loop("we try x = 1 again . we try x = 2 again . we try x = 3 again .")
    assert has_loop("we try x = 1 again . " * 3)


def test_languages_without_spaces() -> None:
    assert has_loop("もう一度考えます。" * 3)
    assert has_loop("再想一遍。" * 3)
    assert not has_loop("光線は学習と評価をつなぐ道具です。")


@pytest.mark.parametrize("text", ["", "yes", "|---|---|---|---|---|---|---|---|", "-" * 80, "wait ... " * 5, "0" * 60])
def test_short_periods_are_ordinary_until_they_fill_the_page(text: str) -> None:
    assert not has_loop(text)


@pytest.mark.parametrize("text", ["the " * 200, "-" * 2000, "no, " * 100, "0" * 200])
def test_short_periods_that_fill_the_page_are_loops(text: str) -> None:
    assert has_loop(text)


def test_long_texts_cost_no_more() -> None:
    text = " ".join(prose(300, seed) for seed in range(2000))
    assert len(text) > 1_000_000
    assert not has_loop(text)
