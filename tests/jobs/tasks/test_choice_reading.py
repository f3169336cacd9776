"""Which letter a response settles on: by the rule, and by the patterns whose figure the Swallow suite reports."""

import time

import pytest

from jobs.tasks.choice_reading import LETTERS, Language, extractive_letter, read_letter

# response, number of options, what the original's patterns find, what the rule finds
ENGLISH = [
    ("Answer: B", 4, "B", "B"),
    ("Answer: **B**", 4, "B", "B"),
    ("Answer: (B)", 4, "B", "B"),
    ("Answer: $\\boxed{B}$", 4, "B", "B"),
    ("Answer: A\n\nWait. Answer: C", 4, "C", "C"),
    ("Answer: b", 4, "A", "B"),
    ("Answer: Ｂ", 4, "A", "B"),
    ("Answer: none of the above", 4, "A", None),
    ("DNA and RNA are acids", 4, "A", None),
    ("I cannot answer.", 10, "I", None),
    ("I cannot answer.", 4, None, None),
    ("Well, I think it is hard.", 10, "I", None),
    # siblings of ours
    ("The final answer is C. I hope it is correct. B", 4, "C", "C"),
    ("The final answer, all in all, is: D", 4, "D", None),
    ("The final answer is C.\nAnswer: B", 4, "C", "B"),
    ("**B** is what I take. A dog, a cat.", 4, "B", None),
    ("The answer is B, which follows.", 4, "B", "B"),
    ("B.", 4, "B", "B"),
    ("So it must be\n\nB", 4, "B", "B"),
    ("So it must be\n\n**(B)**", 4, "B", "B"),
    ("It is J.", 10, "J", None),
    ("Answer: J", 4, "A", None),
    ("Answer: J", 10, "J", "J"),
    ("Answer: $B", 4, "B", "B"),
    ("Answer: B) Paris", 4, "B", "B"),
    ("**Answer:** B", 4, "B", "B"),
    ("Answer: B or C", 4, "B", None),
    ("Answer: B, because C is wrong", 4, "B", "B"),
    ("Answer: A dog", 4, "A", None),
    ("Answer:\nB", 4, "B", "B"),
    ("<think>Answer: A</think>\nAnswer: B", 4, "B", "B"),
    ("<think>It may be that Answer: B", 4, "B", None),
    ("The options are A) one, B) two, and then I got lost in", 4, "B", None),
    ("I am sorry, but I can't help with that.", 4, None, None),
    ("", 4, None, None),
]
JAPANESE = [
    ("回答: B", 4, "B", "B"),
    ("回答：B", 4, "B", "B"),
    ("**回答: B**", 4, "B", "B"),
    ("回答: 「B」", 4, "B", "B"),
    ("回答はBです", 4, "B", "B"),
    ("答え: B", 4, "B", "B"),
    ("回答: Ｂ", 4, None, "B"),
    ("回答: b", 4, None, "B"),
    ("回答: A、B、C、Dのうち、B", 4, "A", "B"),
    ("DNAの問題", 4, "D", None),
    ("回答なし", 4, None, None),
    # siblings of ours
    ("回答: $\\boxed{B}$", 4, "B", "B"),
    ("回答: B) 京都", 4, "B", "B"),
    ("回答: B。なぜならAではないから", 4, "B", "B"),
    ("正解はBです。", 4, "B", "B"),
    ("Aは誤り、Bも誤り。\n正解: C", 4, "A", "C"),
    ("よって\n\nＢ", 4, None, "B"),
    ("回答: A\nいや、回答: C", 4, "C", "C"),
    ("回答: J", 10, "J", "J"),
    ("申し訳ありませんが、回答できません。", 4, None, None),
    ("まずAについて考えると、", 4, "A", None),
    ("", 4, None, None),
]
CASES = [("en", *case) for case in ENGLISH] + [("ja", *case) for case in JAPANESE]


@pytest.mark.parametrize(("language", "response", "options", "original", "right"), CASES)
def test_the_letter_by_the_original_and_by_the_rule(
    language: Language, response: str, options: int, original: str | None, right: str | None
) -> None:
    assert extractive_letter(response, LETTERS[:options], language) == original
    assert read_letter(response, LETTERS[:options]) == right


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("piece", ["answer ", "final answer ", "回答", " " * 100, "final answer is   ", "x\n", "の中"])
def test_a_repetition_loop_is_read_in_time(language: Language, piece: str) -> None:
    text = piece * (100_000 // len(piece))
    begin = time.process_time()
    extractive_letter(text, LETTERS, language)
    read_letter(text, LETTERS)
    assert time.process_time() - begin < 5  # seconds
