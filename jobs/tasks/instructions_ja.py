"""Checks of M-IFEval's 33 Japanese instructions: does a response do what it was asked to?

Ids, arguments and rules are those of the benchmark (lightblue-tech/M-IFEval). `CHECKS` has its own rules, `FIXED`
differs from them where no response, or any, could pass: a keyword that Janome splits is looked for as text, a sentence
may begin on a line of its own, and a response whose language cannot be detected is in no language.
"""

import json
import re
import threading
import unicodedata
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from jobs.tasks.instruction_following import Check

KANJI = "\u4e00-\u9faf"
HIRAGANA = re.compile("[\u3041-\u3096]")
KATAKANA = re.compile("[\u30a1-\u30fa\uff66-\uff9f]")
_ONLY_HIRAGANA = re.compile("[\u3041-\u309fー・]")
_ONLY_KATAKANA = re.compile("[\u30a1-\u30ff\uff66-\uff9f]")
_TO_KATAKANA = ord("ア") - ord("あ")
_TOKENIZER = threading.Lock()  # Janome does not say that threads may share it
OPTIONS = ("はい、そうです。", "いいえ、違います。", "どちらとも言えません。")


def _compare(count: int, relation: str, limit: int) -> bool:
    return count < limit if relation == "未満" else count >= limit


def detect_language(text: str) -> str | None:
    """The code of a text's language; None where it cannot be detected, as in a text of digits alone."""
    from langdetect import DetectorFactory, LangDetectException, detect  # type: ignore[import-untyped]

    DetectorFactory.seed = 0
    try:
        return str(detect(text))
    except LangDetectException:
        return None


def in_language(text: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a text may be in a language; one that cannot be detected may be in any."""
    return detect_language(text) in (None, kwargs["language"])


def in_language_fixed(text: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a text is in a language."""
    return detect_language(text) == kwargs["language"]


def _number_sentences(text: str, kwargs: Mapping[str, Any]) -> bool:
    from ja_sentence_segmenter.common.pipeline import make_pipeline
    from ja_sentence_segmenter.concatenate.simple_concatenator import concatenate_matching
    from ja_sentence_segmenter.normalize.neologd_normalizer import normalize
    from ja_sentence_segmenter.split.simple_splitter import split_newline, split_punctuation

    def join(lines: Any) -> Any:
        return concatenate_matching(lines, r"^(?P<result>.+)(の)$", remove_former_matched=False)

    def split(lines: Any) -> Any:
        return split_punctuation(lines, punctuations=r"。!?")

    sentences = make_pipeline(normalize, split_newline, join, split)(text)
    return _compare(sum(1 for _ in sentences), kwargs["relation"], kwargs["num_sentences"])


def _number_letters(text: str, kwargs: Mapping[str, Any]) -> bool:
    return _compare(len(text), kwargs["relation"], kwargs["num_letters"])


def _parts(text: str, separator: str) -> list[str] | None:
    """The parts of a text but for empty ends; None where one between others is empty."""
    parts = [part.strip() for part in text.split(separator)]
    inner = parts[1:-1]
    return [part for part in parts if part] if all(inner) else None


def number_paragraphs(text: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether there are so many paragraphs, with three stars between them."""
    parts = _parts(text, "***")
    return parts is not None and len(parts) == kwargs["num_paragraphs"]


def _nth_paragraph(text: str, kwargs: Mapping[str, Any]) -> bool:
    paragraphs = text.split("\n\n")
    place = kwargs["nth_paragraph"]
    if sum(bool(part.strip()) for part in paragraphs) != kwargs["num_paragraphs"] or place > len(paragraphs):
        return False
    return paragraphs[place - 1].strip().lstrip("「『").startswith(kwargs["first_word"])


def placeholders(text: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether there are at least so many [placeholders]."""
    return len(re.findall(r"\[.*?\]", text)) >= int(kwargs["num_placeholders"])


def _bullets(text: str, kwargs: Mapping[str, Any]) -> bool:
    return len(re.findall(r"^\s*・[^・].*$", text, re.MULTILINE)) == int(kwargs["num_bullets"])


def _numbered(text: str, kwargs: Mapping[str, Any]) -> bool:
    return len(re.findall(r"^\s*\d+\.\s.*$", text, re.MULTILINE)) == int(kwargs["num_items"])


def _constrained(text: str, kwargs: Mapping[str, Any]) -> bool:
    return any(option in text for option in OPTIONS)


def _highlights(text: str, kwargs: Mapping[str, Any]) -> bool:
    found = re.findall(r"《([^\n《》]*)》", text)
    return sum(bool(part.strip()) for part in found) >= int(kwargs["num_highlights"])


def _sections(text: str, kwargs: Mapping[str, Any]) -> bool:
    return len(re.findall(rf"第\d+{re.escape(kwargs['section_spliter'])}", text)) >= int(kwargs["num_sections"])


def _title(text: str, kwargs: Mapping[str, Any]) -> bool:
    return any(part.strip("『』 \t\u3000") for part in re.findall(r"『[^\n]+』", text))


def _postscript(text: str, kwargs: Mapping[str, Any]) -> bool:
    marker = kwargs["postscript_marker"].strip()
    patterns = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    return re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()) is not None


def is_json(text: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a text is JSON, with or without a fence around it."""
    body = re.sub(r"\A```(?:json|Json|JSON)?", "", text.strip()).removesuffix("```").strip()
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def two_responses(text: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether there are exactly two responses, which differ, with six stars between them."""
    parts = _parts(text, "******")
    return parts is not None and len(parts) == 2 and parts[0] != parts[1]


def repeats_prompt(text: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a response begins with the prompt, in whatever case."""
    return text.strip().lower().startswith(kwargs["prompt_to_repeat"].strip().lower())


def _ends_with(text: str, kwargs: Mapping[str, Any]) -> bool:
    return text.strip().rstrip("」』").endswith(kwargs["end_phrase"].strip().rstrip("」』"))


def _quoted(text: str, kwargs: Mapping[str, Any]) -> bool:
    body = text.strip()
    return len(body) > 1 and body[0] == "「" and body[-1] == "」"


@cache
def _janome() -> Any:
    from janome.tokenizer import Tokenizer

    return Tokenizer()


def _tokens(text: str) -> list[Any]:
    with _TOKENIZER:
        return list(_janome().tokenize(text))


def _surfaces(text: str) -> list[str]:
    return [token.surface for token in _tokens(text)]


def _count(words: list[str], text: str, keyword: str) -> int:
    """How often a keyword occurs as a token, or as text where it is not one token."""
    return words.count(keyword) if len(_surfaces(keyword)) == 1 else text.count(keyword)


def _has_keywords(text: str, kwargs: Mapping[str, Any]) -> bool:
    return set(kwargs["keywords"]) <= set(_surfaces(text))


def _has_keywords_fixed(text: str, kwargs: Mapping[str, Any]) -> bool:
    words = _surfaces(text)
    return all(_count(words, text, keyword) for keyword in kwargs["keywords"])


def _lacks_words(text: str, kwargs: Mapping[str, Any]) -> bool:
    return not set(kwargs["forbidden_words"]) & set(_surfaces(text))


def _lacks_words_fixed(text: str, kwargs: Mapping[str, Any]) -> bool:
    words = _surfaces(text)
    return not any(_count(words, text, keyword) for keyword in kwargs["forbidden_words"])


def _keyword_frequency(text: str, kwargs: Mapping[str, Any]) -> bool:
    return _compare(_surfaces(text).count(kwargs["keyword"]), kwargs["relation"], kwargs["frequency"])


def _keyword_frequency_fixed(text: str, kwargs: Mapping[str, Any]) -> bool:
    return _compare(_count(_surfaces(text), text, kwargs["keyword"]), kwargs["relation"], kwargs["frequency"])


def _letter_frequency(text: str, kwargs: Mapping[str, Any]) -> bool:
    letter = kwargs["letter"]
    count = text.count(letter)
    if HIRAGANA.fullmatch(letter):
        count += text.count(chr(ord(letter) + _TO_KATAKANA))
    return _compare(count, kwargs["let_relation"], kwargs["let_frequency"])


def _furigana(text: str, kwargs: Mapping[str, Any]) -> bool:
    runs = re.findall(f"[{KANJI}]+", text)
    return len(runs) == len(re.findall(f"[{KANJI}]+（[\u3041-\u309f]+）", text))


def _kanji(text: str, kwargs: Mapping[str, Any]) -> bool:
    return _compare(len(re.findall(f"[{KANJI}]", text)), kwargs["relation"], kwargs["kanji_limit"])


def _no_digits(text: str, kwargs: Mapping[str, Any]) -> bool:
    return re.search(r"\d", text) is None


def _lacks(pattern: re.Pattern[str]) -> Check:
    return lambda text, kwargs: pattern.search(text) is None


def _only(pattern: re.Pattern[str]) -> Check:
    return lambda text, kwargs: all(
        pattern.match(letter) for letter in text if unicodedata.category(letter).startswith("L")
    )


def _nominal_endings(text: str, kwargs: Mapping[str, Any]) -> bool:
    ends = sum(
        token.part_of_speech.startswith("名詞") and after.surface in ("。", "！", "？")
        for token, after in pairwise(_tokens(text))
    )
    return ends >= kwargs["count"]


def _sentences(text: str) -> list[str]:
    return re.split("[。！？]", re.sub("「.*?」|『.*?』", "", text))


def _unified_end(text: str, kwargs: Mapping[str, Any]) -> bool:
    return all(piece.endswith(kwargs["ending"]) for piece in _sentences(text) if piece)


def _unified_end_fixed(text: str, kwargs: Mapping[str, Any]) -> bool:
    return all(piece.strip().endswith(kwargs["ending"]) for piece in _sentences(text) if piece.strip())


CHECKS: dict[str, Check] = {
    "ja:combination:repeat_prompt": repeats_prompt,
    "ja:combination:two_responses": two_responses,
    "ja:detectable_content:number_placeholders": placeholders,
    "ja:detectable_content:postscript": _postscript,
    "ja:detectable_format:constrained_response": _constrained,
    "ja:detectable_format:json_format": is_json,
    "ja:detectable_format:multiple_sections": _sections,
    "ja:detectable_format:nominal_ending": _nominal_endings,
    "ja:detectable_format:number_bullet_lists": _bullets,
    "ja:detectable_format:number_highlighted_sections": _highlights,
    "ja:detectable_format:number_numbered_lists": _numbered,
    "ja:detectable_format:title": _title,
    "ja:keywords:existence": _has_keywords,
    "ja:keywords:forbidden_words": _lacks_words,
    "ja:keywords:frequency": _keyword_frequency,
    "ja:keywords:letter_frequency": _letter_frequency,
    "ja:language:response_language": in_language,
    "ja:length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "ja:length_constraints:number_letters": _number_letters,
    "ja:length_constraints:number_paragraphs": number_paragraphs,
    "ja:length_constraints:number_sentences": _number_sentences,
    "ja:letters:furigana": _furigana,
    "ja:letters:hiragana_only": _only(_ONLY_HIRAGANA),
    "ja:letters:kanji": _kanji,
    "ja:letters:kansuuji": _no_digits,
    "ja:letters:katakana_only": _only(_ONLY_KATAKANA),
    "ja:letters:no_hiragana": _lacks(HIRAGANA),
    "ja:letters:no_katakana": _lacks(KATAKANA),
    "ja:punctuation:no_comma": _lacks(re.compile("、")),
    "ja:punctuation:no_period": _lacks(re.compile("。")),
    "ja:startend:end_checker": _ends_with,
    "ja:startend:quotation": _quoted,
    "ja:startend:sentence_unified_end": _unified_end,
}
FIXED: dict[str, Check] = CHECKS | {
    "ja:keywords:existence": _has_keywords_fixed,
    "ja:keywords:forbidden_words": _lacks_words_fixed,
    "ja:keywords:frequency": _keyword_frequency_fixed,
    "ja:language:response_language": in_language_fixed,
    "ja:startend:sentence_unified_end": _unified_end_fixed,
}
