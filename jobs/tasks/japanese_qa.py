"""Reads and compares short Japanese answers: those of JEMHopQA, by the Swallow suite's rules and by stricter ones.

The original's reading, in its order: the first box up to its first brace; what the last label (回答：, 答えは …)
introduces, up to です or a full stop or a space; for the normalised figures the start of the first line, likewise; the
whole text. Its normalised figures change the answer alone, never the reference. `stated_answer` takes the last box with
its braces balanced, then what a label or a sentence states, and nothing else.
"""

import re
import unicodedata
from collections import Counter

from jobs.tasks.answers import boxed, read_answer, without_thinking

_BOX = re.compile(r"\\boxed\{(.*?)\}", re.DOTALL)
_BOXED_TEXT = re.compile(r"\\boxed\{\s*\\text\{(.*?)\}\s*\}", re.DOTALL)
_TEXT = re.compile(r"\\(?:text|textbf|mathrm)\s*\{([^{}]*)\}")
_END = r"(?:です|だ|である|でしょう|だろう)?(?:[。．]|\s|\Z)"
_LABEL = re.compile(
    r"(?:(?:回答|正解|答え|解答)は|[【「\[(（]?(?:回答|正解|答え|解答|解|答)[】」\])）]?\s*(?:->|[:：→=＝．.]))"
    rf"\s*(.+?){_END}"
)
_FIRST_LINE = re.compile(rf"\A\s*(.+?){_END}")

_NO_ANSWER = re.compile(r"(?:.{0,3}(?:わか|分か|判|知)(?:りません|らない)|(?:お)?答え(?:でき|られ)ません)。?")

_PAIRS = (
    *(("「", "」"), ("『", "』"), ("（", "）"), ("(", ")"), ("[", "]"), ("【", "】"), ("〈", "〉"), ("《", "》")),
    *(('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("*", "*"), ("`", "`"), ("{", "}")),
)
_YES = ("はい", "肯定", "肯", "◯", "TRUE", "OK", "イエス")
_NO = ("いいえ", "否", "×", "否定", "ちがう", "違う", "FALSE", "NG")
_BINARY = dict.fromkeys(_YES, "YES") | dict.fromkeys(_NO, "NO")
_BINARY_OF_ANY_CASE = {
    word.casefold(): answer for word, answer in (_BINARY | {"YES": "YES", "NO": "NO", "○": "YES", "ノー": "NO"}).items()
}


def original_answer(response: str, first_line: bool) -> str:
    """The answer as the original reads it; `first_line` for its normalised figures. The whole text where it finds
    nothing."""
    if box := _BOXED_TEXT.search(response) if _text_comes_first(response) else _BOX.search(response):
        return box[1]
    if labels := _LABEL.findall(response):
        return str(labels[-1])
    start = _FIRST_LINE.match(response) if first_line else None
    return start[1] if start else response


def _text_comes_first(response: str) -> bool:
    plain, text = _BOX.search(response), _BOXED_TEXT.search(response)
    return bool(plain and text and text.start() == plain.start())


def stated_answer(response: str) -> str | None:
    """What the response states as its answer; None where it states none."""
    text = without_thinking(response)
    found = boxed(text) or read_answer(text)[0]
    if found is None or "\\boxed" in found:  # a box that was cut off
        return None
    stated = _TEXT.sub(r"\1", found).strip().strip("$").strip()
    return None if not stated or _NO_ANSWER.fullmatch(stated) else stated


def original_normal(text: str) -> str:
    """The original's normal form: one pair of brackets or quotes off, NFKC, words for yes and no as YES and NO."""
    text = unicodedata.normalize("NFKC", _without_pair(text.strip()))
    return _BINARY.get(text, text)


def normal(text: str) -> str:
    """The same in any case of the words for yes and no, and with brackets off again after NFKC."""
    text = _without_pair(unicodedata.normalize("NFKC", _without_pair(text.strip()))).strip()
    return _BINARY_OF_ANY_CASE.get(text.casefold(), text)


def _without_pair(text: str) -> str:
    paired = len(text) > 2 and (text[0], text[-1]) in _PAIRS
    return text[1:-1] if paired else text


def character_f1(answer: str, gold: str) -> float:
    """F1 of the characters as multisets, 0 to 1: 2PR/(P+R). 1 where both are empty, 0 where one is."""
    if not answer or not gold:
        return float(answer == gold)
    common = (Counter(answer) & Counter(gold)).total()
    return 2 * common / (len(answer) + len(gold))


def word_order_ratio(answer: str, gold: str) -> float:
    """llm-jp-eval's F1, 0 to 1: the similarity of the sorted words in whole percent, as fuzzywuzzy rounds it."""
    from rapidfuzz import fuzz, utils

    return round(fuzz.token_sort_ratio(answer, gold, processor=utils.default_process)) / 100
