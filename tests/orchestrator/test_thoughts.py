"""Thoughts and answers come apart in all spellings; marks that are only spoken of stay where they are."""

import time

import pytest

from orchestrator.asking.thoughts import split_thought

PAIRS = [
    ("<think>", "</think>"),
    ("<Think>", "</Think>"),
    ("<think >", "</think >"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<antThinking>", "</antThinking>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<reason>", "</reason>"),
    ("<internal_monologue>", "</internal_monologue>"),
    ("<chain_of_thought>", "</chain_of_thought>"),
    ("<deepthink>", "</deepthink>"),
    ("<thinking_process>", "</thinking_process>"),
    ("<|begin_of_thinking|>", "<|end_of_thinking|>"),
    ("<|thought|>", "<|/thought|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought", "<channel|>"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
]


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
@pytest.mark.parametrize("glue", ["", "\n", "\n\n"])
def test_all_spellings(opening: str, closing: str, glue: str) -> None:
    thought = f"{glue} Hm.\nAnswer: 3 {glue}"
    assert split_thought(f"{opening}{thought}{closing}{glue}Answer: 4") == ("Hm.\nAnswer: 3", "Answer: 4")
    assert split_thought(f"{thought}{closing}{glue}Answer: 4") == ("Hm.\nAnswer: 3", "Answer: 4")
    assert split_thought(f"\n{opening}{thought}") == ("Hm.\nAnswer: 3", None)
    assert split_thought(f"{opening}{thought}{closing}{glue}") == ("Hm.\nAnswer: 3", None)
    assert split_thought(f"{opening}{closing}{glue}Answer: 4") == (None, "Answer: 4")


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>", "Hm", "4"),
        ("<|start|>assistant<|channel|>analysis<|message|>Hm", "Hm", None),
        ("<|channel|>final<|message|>Answer: 4", None, "Answer: 4"),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.f "
            "<|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>Answer: 4",
            "a\n\n{}",
            "Answer: 4",
        ),
        ("Hm<|end|><|start|>assistant<|channel|>final<|message|>Answer: 4", "Hm", "Answer: 4"),
        ("analysisWe add.assistantfinalAnswer: 4", "We add.", "Answer: 4"),
        ("analysis we add.\nassistantfinal**Answer**: 4", "we add.", "**Answer**: 4"),
        ("analysisWe add", "We add", None),
        ("Here is my thought process: hm. Here is my response: Answer: 4", "hm.", "Answer: 4"),
        ("<thinking>hm</think>Answer: 4", "hm", "Answer: 4"),  # not its own mark, but one
        ("<think>hm</think></think>Answer: 4", "hm", "Answer: 4"),
        ("<think>a</think>\n<think>b</think>\nAnswer: 4", "a\n\nb", "Answer: 4"),
        ("Sure.\n<think>\nAnswer: 3\n</think>\nAnswer: 4", "Answer: 3", "Sure.\n\nAnswer: 4"),
        ("<think>they say </think> here, so\n</think>\nAnswer: 4", "they say </think> here, so", "Answer: 4"),
        ("<think>it is 4 </think> the answer is 4", "it is 4", "the answer is 4"),
        ("hm, 4</think>4", "hm, 4", "4"),
        ("hm, 4.</think> So, 4", "hm, 4.", "So, 4"),
        ("計算すると4</think>答え：4", "計算すると4", "答え：4"),
        ("<|begin_of_thought|>a<|end_of_thought|>\n<|begin_of_solution|>4<|end_of_solution|>", "a", "4"),
    ],
)
def test_other_ways(text: str, thought: str | None, answer: str | None) -> None:
    assert split_thought(text) == (thought, answer)


@pytest.mark.parametrize(
    "text",
    [
        "Explanation: R1 opens with <think> here.\nAnswer: 42",
        "Explanation: R1 closes with </think> tags.\nAnswer: 4",
        "Answer: use the </think> tag",
        "Answer: </think>",
        "Answer: `</think>`\nConfidence: 90%",
        "Answer: `<think>`",
        'It writes "</think>" then.\nAnswer: 4',
        "R1 writes <think>…</think>\nAnswer: 4",
        "R1は</think>タグで終わる。\n回答：4",
        "R1は「</think>」で終わる。\n回答：4",
        '{"reasoning": "It says <think>\\n and </think> So. ", "correct": "yes"}',
        '```json\n{"reasoning": "ends in </think>\n", "correct": "yes"}\n```',
        'Verdict: {"reasoning": "says </think> So", "correct": "yes"}',
        "The template:\n```\n<think>\n</think>\n```\nAnswer: 4",
        "analysis of the data\nAnswer: 4",
        "The assistant final answer is 4",
        "I am thinking <hard>.",
        "Answer: 4",
    ],
)
def test_only_spoken_of(text: str) -> None:
    assert split_thought(text) == (None, text)


def test_nothing() -> None:
    assert split_thought("") == (None, None)


@pytest.mark.parametrize(
    "part",
    ["<think>", "</think>", "<think>\n", "\n</think>\n", "a <think> b", "<think> a </think> b", '"`', "```", "<"],
)
def test_long_texts_take_no_time(part: str) -> None:
    start = time.process_time()
    split_thought(part * (100_000 // len(part)))
    assert time.process_time() - start < 2
