"""How often the rule judge errs on labelled pairs, and how long it takes: `python -m benchmarks.answers pairs`.

`pairs` takes references of MATH-500, Minerva and AMC (--data, a folder that holds math/ and gsm8k/), writes each in
other notations by rule (should be the same), spoils it by rule (should not be), and sets it against others; GSM8K's
recorded solutions have official verdicts. `--rules FILE` measures another module with read_answer and equivalent, an
older jobs/tasks/answers.py for example; `--rules math-verify` that library, each pair under a limit of seconds.
"""

import argparse
import gzip
import importlib.util
import itertools
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from jobs.tasks import answers as ours

Same = Callable[[str, str], bool]
Pair = tuple[str, str, str]  # rule, answer, reference
PLAIN = {r"\pi": "π", r"\infty": "∞", r"\cup": "∪", r"\in": "∈", r"\pm": "±", r"\cdot": "·", r"\times": "×"}
SHOWN = 12  # errors of a kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pairs",))
    parser.add_argument("--data", type=Path, default=Path("/data"), help="folder with math/ and gsm8k/")
    parser.add_argument("--rules", default="", help="FILE of another module, or math-verify")
    parser.add_argument("--seconds", type=float, default=3.0, help="limit of a pair with math-verify")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--against", type=int, default=40, help="other references that each is set against")
    parser.add_argument("--every", type=int, default=1, help="take every so many pairs only")
    report_pairs(parser.parse_args())


def report_pairs(given: argparse.Namespace) -> None:
    same, read = rules(given.rules, given.seconds)
    references = list(dict.fromkeys(math_references(given.data)))
    print(f"{len(references)} references of MATH-500, Minerva and AMC; {given.rules or 'jobs.tasks.answers'}")
    for what, pairs, right in (
        ("notation", variants(references), True),
        ("near misses", near_misses(references), False),
        ("other references", others(references, given.against, given.seed), False),
    ):
        count(what, itertools.islice(pairs, 0, None, given.every), same, right=right)
    if read:
        gsm8k(given.data, read, same)


def rules(name: str, seconds: float) -> tuple[Same, Callable[[str], str | None] | None]:
    """How two answers are compared and, for a module of rules, how an answer is read."""
    if name == "math-verify":
        return _math_verify(seconds), None
    module: Any = ours
    if name:
        spec = importlib.util.spec_from_file_location("other_rules", name)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return (lambda answer, gold: module.equivalent(answer, gold, "exactMatch")), lambda text: module.read_answer(text)[
        0
    ]


def _math_verify(seconds: float) -> Same:
    """Its own limits work in the main thread only, by a signal; a whole number of seconds."""
    from math_verify import parse, verify

    limit = max(1, round(seconds))

    def same(answer: str, gold: str) -> bool:
        left, right = (parse(f"\\boxed{{{text}}}", parsing_timeout=limit) for text in (answer, gold))
        return bool(left and right and verify(right, left, timeout_seconds=limit))

    return same


def count(what: str, pairs: Iterable[Pair], same: Same, *, right: bool) -> None:
    wrong: list[Pair] = []
    by_rule: Counter[str] = Counter()
    start, asked = time.process_time(), 0
    for pair in pairs:
        asked += 1
        try:
            verdict = same(pair[1], pair[2])
        except Exception as error:  # noqa: BLE001  (an error is an error of the rules that are measured)
            verdict = not right
            by_rule[f"raised {type(error).__name__}"] += 1
        if verdict != right:
            wrong.append(pair)
            by_rule[pair[0]] += 1
    spent = (time.process_time() - start) / max(asked, 1) * 1e3
    name = "refused" if right else "credited"
    print(f"{what}: {len(wrong)} of {asked} wrongly {name} ({len(wrong) / max(asked, 1):.2%}), {spent:.3f} ms each")
    print(f"    by rule: {dict(by_rule.most_common())}")
    for rule, answer, gold in wrong[:: max(1, len(wrong) // SHOWN)][:SHOWN]:
        print(f"    {rule}: {answer!r} / {gold!r}")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return map(json.loads, content.splitlines())


def math_references(data: Path) -> Iterator[str]:
    for row in rows(data / "math" / "math500_test.jsonl.gz"):
        yield row["answer"]
    for row in rows(data / "math" / "amc23" / "test.jsonl"):
        yield str(row["answer"])
    for row in rows(data / "math" / "minerva_math" / "test.jsonl.gz"):
        if (boxed := ours.read_answer(row["solution"])[0]) and "box" in row["solution"]:
            yield boxed


def variants(references: Iterable[str]) -> Iterator[Pair]:
    """Each reference in the notations that a rule makes of it."""
    for gold in references:
        for rule, rewrite in NOTATIONS.items():
            answer = rewrite(gold)
            if answer and answer != gold:
                yield rule, answer, gold


def _plain_text(gold: str) -> str:
    """As one types it: π for \\pi, no dollars, no \\left."""
    text = re.sub(r"\\(?:left|right)(?![A-Za-z])", "", gold)
    for command, sign in PLAIN.items():
        text = re.sub(re.escape(command) + r"(?![A-Za-z]) ?", sign, text)
    return text


def _slashes(gold: str) -> str:
    """a/b where both are single numbers or letters and nothing but signs and brackets stands around."""
    return re.sub(r"(?<![\w}] )(?<![\w}])\\[dt]?frac\{(\w+)\}\{(\w)\}(?![\w{^])", r"\1/\2", gold)


def _decimal(gold: str) -> str:
    found = re.fullmatch(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}", gold)
    if not found:
        return ""
    top, bottom = int(found[2]), int(found[3])
    rest = bottom
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return f"{found[1]}{top / bottom}" if rest == 1 and bottom < 1000 else ""


def _grouped(gold: str, separator: str) -> str:
    digits = gold.replace(",\\!", "").replace(" ", "").replace(",", "")
    return f"{int(digits):,}".replace(",", separator) if re.fullmatch(r"-?\d{4,}", digits) else ""


NOTATIONS: dict[str, Callable[[str], str]] = {
    "as it is": lambda gold: f" {gold} ",
    "dollars": lambda gold: f"${gold}$" if "\\$" not in gold else "",
    "display": lambda gold: f"\\[ {gold} \\]",
    "parentheses": lambda gold: f"\\( {gold} \\).",
    "boxed": lambda gold: f"\\boxed{{{gold}}}",
    "bold": lambda gold: f"**{gold}**",
    "full stop": lambda gold: f"{gold}.",
    "dfrac": lambda gold: gold.replace("\\frac", "\\dfrac"),
    "tfrac": lambda gold: gold.replace("\\frac", "\\tfrac").replace("\\dfrac", "\\tfrac"),
    "frac with braces": lambda gold: re.sub(r"\\frac ?(\d)(\d)(?!\d)", r"\\frac{\1}{\2}", gold),
    "frac without braces": lambda gold: re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2", gold),
    "slash": _slashes,
    "decimal": _decimal,
    "ratio": lambda gold: re.sub(r"^(\d*)\.(\d+)$", lambda f: f"{f[1] + f[2]}/{10 ** len(f[2])}", gold),
    "zeros behind": lambda gold: f"{gold}.00" if re.fullmatch(r"-?\d+", gold) else "",
    "plus": lambda gold: f"+{gold}" if re.fullmatch(r"\d+", gold) else "",
    "plain signs": _plain_text,
    "plain roots": lambda gold: re.sub(r"\\sqrt\{(\w+)\}", r"√\1", gold),
    "roots as words": lambda gold: re.sub(r"\\sqrt\{(\w+)\}", r" sqrt(\1)", gold),
    "roots without braces": lambda gold: re.sub(r"\\sqrt\{(\w)\}", r"\\sqrt\1", gold),
    "unicode minus": lambda gold: gold.replace("-", "−") if "text" not in gold else "",
    "en dash": lambda gold: gold.replace("-", "–"),
    "left and right": lambda gold: (
        re.sub(r"([(\[])(.*)([)\]])$", r"\\left\1\2\\right\3", gold) if gold[0] in "([" else ""
    ),
    "no left and right": lambda gold: re.sub(r"\\(?:left|right)(?![a-z]) ?", "", gold),
    "spaces around signs": lambda gold: (
        re.sub(r"(?<=[\w)}]) ?([+,=]) ?(?=[\w({\\])", r" \1 ", gold)
        if not re.search(r"\d,\\|\d,\d{3}|begin|text", gold)
        else ""
    ),
    "no spaces": lambda gold: re.sub(r" ?([+=-]|,(?![\\]| ?\d)) ?", r"\1", gold) if "text" not in gold else "",
    "thin spaces": lambda gold: gold.replace(", ", ",\\, "),
    "degrees": lambda gold: gold.replace("^\\circ", "°"),
    "degrees with braces": lambda gold: gold.replace("^\\circ", "^{\\circ}"),
    "degrees as a word": lambda gold: gold.replace("^\\circ", " degrees"),
    "text off": lambda gold: re.sub(r"\\(?:text|mbox|mathrm)\{([^{}]*)\}", r"\1", gold),
    "text on": lambda gold: f"\\text{{{gold}}}" if re.fullmatch(r"[A-Za-z ]+", gold) else "",
    "capitals": lambda gold: re.sub(r"(?<=\\text\{)[a-z](?=[a-z]{3})", lambda f: f[0].upper(), gold),
    "exponents with braces": lambda gold: re.sub(r"\^(\d)", r"^{\1}", gold),
    "raised digits": lambda gold: re.sub(r"\^(\d)", lambda f: "⁰¹²³⁴⁵⁶⁷⁸⁹"[int(f[1])], gold),
    "lowered digits": lambda gold: re.sub(r"_\{?(\d)\}?", lambda f: "₀₁₂₃₄₅₆₇₈₉"[int(f[1])], gold),
    "thousands": lambda gold: _grouped(gold, ","),
    "thousands in LaTeX": lambda gold: _grouped(gold, "{,}"),
    "thousands with spaces": lambda gold: _grouped(gold, "\\,"),
    "no thousands": lambda gold: re.sub(r"(?<=\d),\\! ?(?=\d{3})|(?<=^\d\d),(?=\d{3}$)", "", gold),
    "currency off": lambda gold: gold.removeprefix("\\$"),
    "full width": lambda gold: (
        gold.translate({code: code + 0xFEE0 for code in range(48, 58)}) if gold.isdigit() else ""
    ),
    "matrix brackets": lambda gold: gold.replace("pmatrix", "bmatrix"),
    "set spacing": lambda gold: re.sub(r"\\\{(.*)\\\}", r"\\{ \1 \\}", gold),
    "scientific": lambda gold: re.sub(r"\\times ?10\^\{?(-?\d+)\}?", r"e\1", gold),
    "scientific with x": lambda gold: re.sub(r" ?\\times ?10\^\{?(-?\d+)\}?", r" x 10^\1", gold),
    "scientific with ×": lambda gold: re.sub(r" ?\\times ?10\^\{(-?\d+)\}", r" × 10^(\1)", gold),
    "named": lambda gold: f"x = {gold}" if not re.search(r"[=\\a-z,]", gold) else "",
}


def near_misses(references: Iterable[str]) -> Iterator[Pair]:
    """Each reference with one thing in it changed that is content."""
    for gold in references:
        for rule, spoil in MISSES.items():
            for answer in spoil(gold):
                if answer != gold:
                    yield rule, answer, gold


def _each_digit(gold: str) -> Iterator[str]:
    for found in re.finditer(r"\d", gold):
        yield gold[: found.start()] + str((int(found[0]) + 1) % 10) + gold[found.end() :]


def _each(pattern: str, replacement: str) -> Callable[[str], Iterator[str]]:
    def spoil(gold: str) -> Iterator[str]:
        for found in re.finditer(pattern, gold):
            yield gold[: found.start()] + found.expand(replacement) + gold[found.end() :]

    return spoil


MISSES: dict[str, Callable[[str], Iterable[str]]] = {
    "one digit": _each_digit,
    "minus before": lambda gold: (
        [f"-{gold}"] if re.match(r"[1-9\\]", gold) and not re.match(r"\\(?:text|pi\b.*_)", gold) else []
    ),
    "minus off": lambda gold: [gold[1:]] if gold[0] == "-" else [],
    "plus and minus": lambda gold: [*_each(r"\+", "-")(gold), *_each(r"(?<=[\w}]) ?-", "+")(gold)],
    "swapped fraction": lambda gold: _each(r"\{(\d+)\}\{(\d+)\}", r"{\2}{\1}")(gold) if "frac" in gold else [],
    "swapped tuple": lambda gold: _each(r"^\(([^,()]+),([^,()]+)\)$", r"(\2,\1)")(gold),
    "exponent more": _each(r"\^(\d)", r"^{\g<1>1}"),
    "exponent off": _each(r"\^\{?\d+\}?", ""),
    "exponent on the line": _each(r"\^\{?(\d+)\}?", r"\1"),
    "root off": _each(r"\\sqrt\{(\w+)\}", r"\1"),
    "root wider": _each(r"\\sqrt\{(\w+)\}(\w+)", r"\\sqrt{\1\2}"),
    "bracket": lambda gold: [*_each(r"^\((.*)\)$", r"[\1]")(gold), *_each(r"\]$", ")")(gold)] if "," in gold else [],
    "another letter": _each(r"(?<![\\A-Za-z])x(?![A-Za-z])", "z"),
    "capital letter": _each(r"(?<![\\A-Za-z{])x(?![A-Za-z])", "X"),
    "ten times": lambda gold: [f"{gold}0"] if re.fullmatch(r"-?[1-9]\d*", gold) else [],
    "a point": lambda gold: [f"{gold[:-1]}.{gold[-1]}"] if re.fullmatch(r"[1-9]\d+", gold) else [],
    "percent": lambda gold: [f"{gold}\\%"] if re.fullmatch(r"-?[1-9]\d*", gold) else [],
    "a unit": lambda gold: [f"{gold} m"] if re.fullmatch(r"-?\d+", gold) else [],
    "a list": lambda gold: [f"{gold}, 1", f"{gold} or 1"],
    "a part": lambda gold: [gold[: len(gold) // 2].strip()] if re.fullmatch(r"[\w ,]{4,}", gold) else [],
}


def others(references: list[str], against: int, seed: int) -> Iterator[Pair]:
    """Each reference and others, save those that are the same when spaces and LaTeX's dress are taken away."""
    choose = random.Random(seed)
    for gold in references:
        for answer in choose.sample(references, min(against, len(references))):
            if _bare(answer) != _bare(gold):
                yield "other", answer, gold


def _bare(text: str) -> str:
    """Apart from jobs.tasks on purpose: what the pairs are labelled by."""
    text = re.sub(r"\\[dt]?frac ?(\w) ?(\w)(?!\w)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"(?<=\d)\}\{(?=\d)", "/", text)
    text = re.sub(r"\\!|\\(?:text|mathrm|mbox|left|right)|[\s{},$]|\.0$", "", text.replace("dfrac", "frac"))
    ratio = re.fullmatch(r"(-?)\\frac(\d+)/(\d+)|(-?\d*\.?\d+)", text)
    return str(Fraction(ratio[4] or f"{ratio[1]}{ratio[2]}/{ratio[3]}")) if ratio else text


def gsm8k(data: Path, read: Callable[[str], str | None], same: Same) -> None:
    """Recorded solutions of four models against the official verdicts; their last line `A: x` in six forms."""
    forms = ("#### {}", "Answer: {}", "#### ${}", "#### **{}**", "\\boxed{{{}}}", "The answer is {}.")
    wrong: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for row in rows(data / "gsm8k" / "example_model_solutions.jsonl.gz"):
        gold = row["ground_truth"].rpartition("A: ")[2].strip()
        for solved in (value for value in row.values() if isinstance(value, dict)):
            body, label, stated = solved["solution"].rpartition("\nA: ")
            for form in forms:
                text = f"{body}\n{form.format(stated.strip())}" if label else solved["solution"]
                answer = read(text)
                verdict = answer is not None and same(answer, gold)
                asked[form] += 1
                kind = "credited" if verdict else "refused"
                wrong[f"{form} wrongly {kind}"] += verdict != solved["is_correct"]
    print(f"GSM8K: {dict(asked)}")
    print(f"    {dict(wrong)}")


if __name__ == "__main__":
    main()
