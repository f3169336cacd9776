"""Checks of IFEval's 25 English instructions: does a response do what it was asked to?

Ids, arguments and rules are those of the benchmark (google-research/instruction_following_eval), but for words and
sentences, which it takes apart by NLTK: `words` and `count_sentences` are rules of ours. Where a letter to be counted
is none of a to z, as in "at least 4 #", the benchmark counts a letter that it draws by chance; the one that was asked
for counts here. `FIXED` differs from `CHECKS` where a language cannot be detected, which passes there for any, and in
capitals, which langdetect takes for German.
"""

import re
from collections.abc import Mapping
from typing import Any

from jobs.tasks.instruction_following import Check
from jobs.tasks.instructions_ja import (
    detect_language,
    in_language,
    in_language_fixed,
    is_json,
    number_paragraphs,
    placeholders,
    repeats_prompt,
    two_responses,
)

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_ABBREVIATIONS = frozenset(
    ["mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "e.g", "i.e", "u.s", "u.k", "jr", "sr", "inc", "ltd", "co"]
)
_SENTENCE_END = re.compile(r"(\S*?)([.!?]+)[\"'”’)\]*_]*(?=\s+(\S)|\s*\Z)")
_AROUND_WORD = ".,;:!?\"'()[]{}<>*_`…“”‘’"


def _compare(count: int, relation: str, limit: int) -> bool:
    return count < limit if relation == "less than" else count >= limit


def words(text: str) -> list[str]:
    """The words of a text without the punctuation around them."""
    return [word for part in re.split(r"\s+|--+|—", text) if (word := part.strip(_AROUND_WORD))]


def count_sentences(text: str) -> int:
    """How many sentences a text has: one ends at a mark before white space, unless an abbreviation or a number does."""
    count, last = 0, 0
    for end in _SENTENCE_END.finditer(text):
        if not _is_inner(end[1].lower().lstrip("(\"'*"), end[2], end[3] or ""):
            count, last = count + 1, end.end()
    return count + bool(text[last:].strip())


def _is_inner(before: str, mark: str, following: str) -> bool:
    """Whether a mark behind the word `before` ends no sentence; `following` is the next letter or ""."""
    if not following or mark not in (".", "..."):
        return False
    if mark == "..." or before.isdigit():  # NLTK takes "1. Take" in a list for two sentences
        return following.islower()
    return before in _ABBREVIATIONS or (len(before) == 1 and before.isalpha() and before != "i")


def _number_sentences(text: str, kwargs: Mapping[str, Any]) -> bool:
    return _compare(count_sentences(text), kwargs["relation"], kwargs["num_sentences"])


def _number_words(text: str, kwargs: Mapping[str, Any]) -> bool:
    return _compare(len(re.findall(r"\w+", text)), kwargs["relation"], kwargs["num_words"])


def _capital_words(text: str, kwargs: Mapping[str, Any]) -> bool:
    count = sum(word.isupper() for word in words(text))
    return _compare(count, kwargs["capital_relation"], kwargs["capital_frequency"])


def _upper_case(text: str, kwargs: Mapping[str, Any]) -> bool:
    return text.isupper() and in_language(text, {"language": "en"})


def _lower_case(text: str, kwargs: Mapping[str, Any]) -> bool:
    return text.islower() and in_language(text, {"language": "en"})


def _postscript(text: str, kwargs: Mapping[str, Any]) -> bool:
    marker = kwargs["postscript_marker"].strip()
    patterns = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    return re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()) is not None


def _constrained(text: str, kwargs: Mapping[str, Any]) -> bool:
    return any(option in text for option in OPTIONS)


def _sections(text: str, kwargs: Mapping[str, Any]) -> bool:
    found = re.findall(rf"{re.escape(kwargs['section_spliter'])}\s?\d+", text)
    return len(found) >= int(kwargs["num_sections"])


def _bullets(text: str, kwargs: Mapping[str, Any]) -> bool:
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == int(kwargs["num_bullets"])


def _highlights(text: str, kwargs: Mapping[str, Any]) -> bool:
    found = [*re.findall(r"\*([^\n*]*)\*", text), *re.findall(r"\*\*([^\n*]*)\*\*", text)]
    return sum(bool(part.strip()) for part in found) >= int(kwargs["num_highlights"])


def _title(text: str, kwargs: Mapping[str, Any]) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _has_keywords(text: str, kwargs: Mapping[str, Any]) -> bool:
    return all(re.search(re.escape(keyword), text, re.IGNORECASE) for keyword in kwargs["keywords"])


def _lacks_words(text: str, kwargs: Mapping[str, Any]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in kwargs["forbidden_words"])


def _keyword_frequency(text: str, kwargs: Mapping[str, Any]) -> bool:
    found = re.findall(re.escape(kwargs["keyword"].strip()), text, re.IGNORECASE)
    return _compare(len(found), kwargs["relation"], kwargs["frequency"])


def _letter_frequency(text: str, kwargs: Mapping[str, Any]) -> bool:
    return _compare(text.lower().count(kwargs["letter"].lower()), kwargs["let_relation"], kwargs["let_frequency"])


def _nth_paragraph(text: str, kwargs: Mapping[str, Any]) -> bool:
    paragraphs = text.split("\n\n")
    place = kwargs["nth_paragraph"]
    if sum(bool(part.strip()) for part in paragraphs) != kwargs["num_paragraphs"] or place > len(paragraphs):
        return False
    first = re.match(r"\s*'*\"*([^\s.,?!'\"]*)", paragraphs[place - 1])
    return first is not None and first[1].lower() == kwargs["first_word"].lower()


def _ends_with(text: str, kwargs: Mapping[str, Any]) -> bool:
    return text.strip().strip('"').lower().endswith(kwargs["end_phrase"].strip().lower())


def _quoted(text: str, kwargs: Mapping[str, Any]) -> bool:
    body = text.strip()
    return len(body) > 1 and body[0] == '"' and body[-1] == '"'


def _no_comma(text: str, kwargs: Mapping[str, Any]) -> bool:
    return "," not in text


def _upper_case_fixed(text: str, kwargs: Mapping[str, Any]) -> bool:
    return text.isupper() and detect_language(text.lower()) == "en"


def _lower_case_fixed(text: str, kwargs: Mapping[str, Any]) -> bool:
    return text.islower() and detect_language(text) == "en"


CHECKS: dict[str, Check] = {
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _upper_case,
    "change_case:english_lowercase": _lower_case,
    "combination:repeat_prompt": repeats_prompt,
    "combination:two_responses": two_responses,
    "detectable_content:number_placeholders": placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:json_format": is_json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": _title,
    "keywords:existence": _has_keywords,
    "keywords:forbidden_words": _lacks_words,
    "keywords:frequency": _keyword_frequency,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": in_language,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_words": _number_words,
    "punctuation:no_comma": _no_comma,
    "startend:end_checker": _ends_with,
    "startend:quotation": _quoted,
}
FIXED: dict[str, Check] = CHECKS | {
    "change_case:english_capital": _upper_case_fixed,
    "change_case:english_lowercase": _lower_case_fixed,
    "language:response_language": in_language_fixed,
}
