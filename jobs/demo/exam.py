"""The demo's exam: 128 small questions of our own in HLE's row schema, from sixteen families of questions.

A family draws as many different questions as one likes. A hash of the question decides on which side of the fence it
falls: the exam takes only held-out questions, the demo's model (`jobs.demo.model`) trains only on the others. So the
model has to generalise within a family; no question of the exam was ever in its training data.

`python -m jobs.demo exam --out conf/demo/exam.jsonl` writes the exam that ships. Pure and seeded: same seed, same exam.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.files import REPOSITORY

EXAM = REPOSITORY / "conf" / "demo" / "exam.jsonl"
HELD_OUT_BYTES = 64  # of 256: a quarter of every family's questions is kept for the exam


@dataclass(frozen=True)
class Draft:
    """What a family draws. Without choices the answer is to be given exactly, else by its letter."""

    text: str
    answer: str
    rationale: str
    choices: tuple[str, ...] = ()

    @property
    def held_out(self) -> bool:
        """Whether the question belongs to the exam. The order of the choices plays no part."""
        key = json.dumps([self.text, sorted(self.choices)])
        return hashlib.sha256(key.encode()).digest()[0] < HELD_OUT_BYTES


@dataclass(frozen=True)
class Family:
    """One kind of question. `confidence` (percent) is what the model learns to say of itself on this kind."""

    category: str
    subject: str
    draw: Callable[[random.Random], Draft]
    confidence: int
    n_exam: int


@dataclass(frozen=True)
class DemoQuestion:
    """A question as it is asked: the choices in the text, the answer a letter if there are choices."""

    family: Family
    text: str
    answer: str
    answer_type: str
    rationale: str

    @property
    def response(self) -> str:
        """A full answer in the form that HLE's system prompt asks for."""
        return f"Explanation: {self.rationale}\nAnswer: {self.answer}\nConfidence: {self.family.confidence}%"

    def row(self) -> dict[str, Any]:
        """The question with the fields of a row of HLE."""
        return {
            "id": hashlib.sha256(self.text.encode()).hexdigest()[:24],
            "question": self.text,
            "image": "",
            "image_preview": None,
            "answer": self.answer,
            "answer_type": self.answer_type,
            "author_name": "Kosen",
            "rationale": self.rationale,
            "rationale_image": None,
            "raw_subject": self.family.subject,
            "category": self.family.category,
            "canary": "",
        }


def _sum(rng: random.Random) -> Draft:
    first, second = rng.randint(11, 99), rng.randint(1, 3)
    ones, tens = first % 10 + second, first // 10 * 10
    rationale = f"{first % 10} + {second} = {ones}, and {tens} + {ones} = {tens + ones}."
    return Draft(f"What is {first} + {second}?", str(first + second), rationale)


DIVISORS = {"by 2": "2468", "by 5": "5", "by both": "0", "by neither": "1379"}


def _divisor(rng: random.Random) -> Draft:
    answer = rng.choice(list(DIVISORS))
    number = f"{rng.randint(1, 99)}{rng.choice(DIVISORS[answer])}"
    text = f"Can the number {number} be divided by 2, by 5, by both or by neither?"
    return Draft(text, answer, f"{number} ends in {number[-1]}: {answer}.", tuple(DIVISORS))


def _strand(rng: random.Random) -> Draft:
    strand = "".join(rng.choices("ACGT", k=rng.randint(4, 5)))
    pairs = dict(zip("ACGT", "TGCA", strict=True))
    answer = "".join(pairs[base] for base in strand)
    text = f"Which bases pair with the DNA strand {strand}, in the same order?"
    return Draft(text, answer, "A pairs with T, C with G.")


TRAITS = (  # in whom, and two forms of a trait
    ("peas", "tall", "short"),
    ("tomatoes", "red", "yellow"),
    ("mice", "black", "white"),
    ("flies", "winged", "wingless"),
    ("cats", "shaggy", "sleek"),
    ("dogs", "dark", "pale"),
    ("maize", "golden", "purple"),
    ("snails", "plain", "banded"),
)


def _dominance(rng: random.Random) -> Draft:
    plural, dominant, recessive = rng.choice(TRAITS)
    if rng.random() < 0.5:
        dominant, recessive = recessive, dominant
    big = rng.choice("ABDEGHLNRT")
    small = big.lower()
    alleles = rng.choice((f"{big}-{big}", f"{big}-{small}", f"{small}-{small}"))
    text = f"In {plural}, {dominant} ({big}) is dominant over {recessive} ({small}). What does {alleles} give?"
    has = big in alleles
    answer = dominant if has else recessive
    rationale = f"{alleles} {'has' if has else 'lacks'} {big}, so it gives {answer}."
    return Draft(text, answer, rationale, (dominant, recessive, "both"))


def _bits(rng: random.Random) -> Draft:
    operator = rng.choice(("AND", "OR", "XOR"))
    first, second = ("".join(rng.choices("01", k=4)) for _ in range(2))
    columns_of_one = {"AND": ("11",), "OR": ("01", "10", "11"), "XOR": ("01", "10")}[operator]
    bits = ["1" if a + b in columns_of_one else "0" for a, b in zip(first, second, strict=True)]
    columns = [f"{a}{b} gives {bit}" for a, b, bit in zip(first, second, bits, strict=True)]
    return Draft(f"What is {first} {operator} {second}, bit by bit?", "".join(bits), ", ".join(columns) + ".")


NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivo", "June", "Ken", "Lena")


def _queue(rng: random.Random) -> Draft:
    names = rng.sample(NAMES, 3)
    structure, rule, right = rng.choice((("stack", "last in, first out", 2), ("queue", "first in, first out", 0)))
    text = f"{names[0]}, {names[1]} and {names[2]} go into a {structure}, in this order. Who comes out first?"
    answer = names[right]
    return Draft(text, answer, f"A {structure} is {rule}: {answer}.", tuple(names))


PREFIXES = (("kilo", 3), ("mega", 6), ("centi", 2), ("milli", 3), ("micro", 6))
UNITS = ("metres", "grams", "watts", "volts", "litres")


def _units(rng: random.Random) -> Draft:
    (prefix, power), unit, number = rng.choice(PREFIXES), rng.choice(UNITS), rng.randint(2, 99)
    source, target = (prefix + unit, unit) if prefix in ("kilo", "mega") else (unit, prefix + unit)
    factor = "1" + "0" * power
    text = f"How many {target} are {number} {source}?"
    return Draft(text, f"{number}{'0' * power}", f"{prefix} is a factor of {factor}: {number} × {factor}.")


def _pair(rng: random.Random) -> tuple[int, int]:
    """Two numbers from 2 to 9; one time in four they are equal, so that the third choice is worth knowing."""
    first = rng.randint(2, 9)
    return first, first if rng.random() < 1 / 4 else rng.randint(2, 9)


BODIES = ("cart", "sled", "boat", "box", "sofa", "log", "crate", "raft")


def _forces(rng: random.Random) -> Draft:
    left, right = _pair(rng)
    text = f"A {rng.choice(BODIES)} is pulled left with {left} N and right with {right} N. Which way does it start?"
    answer = "left" if left > right else "right" if left < right else "neither"
    return Draft(text, answer, f"{left} N against {right} N: {answer}.", ("left", "right", "neither"))


def _formula(rng: random.Random) -> Draft:
    carbon, nitrogen, oxygen = rng.randint(1, 9), rng.randint(1, 3), rng.randint(1, 5)
    hydrogen = 2 * rng.randint(1, carbon) + nitrogen % 2  # valences allow just these parities
    counts = {"C": carbon, "H": hydrogen, "N": nitrogen, "O": oxygen}
    formula = "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in counts.items())
    name, symbol = rng.choice((("carbon", "C"), ("hydrogen", "H"), ("nitrogen", "N"), ("oxygen", "O")))
    text = f"A molecule has the formula {formula}. How many {name} atoms does it have?"
    count = counts[symbol]
    number = f"the number {count}" if count > 1 else "no number, which means 1"
    return Draft(text, str(count), f"{symbol} stands for {name} and has {number}.")


SOLUTIONS = ("soil water", "a cleaning fluid", "a fruit juice", "pond water", "a buffer", "a plant extract")


def _acidity(rng: random.Random) -> Draft:
    tenths = 70 if rng.random() < 1 / 6 else rng.randint(5, 135)
    ph = f"{tenths // 10}.{tenths % 10}"
    answer = "acidic" if tenths < 70 else "basic" if tenths > 70 else "neutral"
    relation = {"acidic": "below", "basic": "above", "neutral": "equal to"}[answer]
    text = f"What is {rng.choice(SOLUTIONS)} with a pH of {ph}?"
    return Draft(text, answer, f"{ph} is {relation} 7.0: {answer}.", ("acidic", "neutral", "basic"))


COLOURS = ("black", "brown", "red", "orange", "yellow", "green", "blue", "violet", "grey", "white")


def _resistor(rng: random.Random) -> Draft:
    tens, ones, zeros = rng.randint(1, 9), rng.randint(0, 9), rng.randint(1, 6)
    bands = [COLOURS[tens], COLOURS[ones], COLOURS[zeros]]
    text = f"How many ohms has a resistor with the bands {bands[0]}, {bands[1]} and {bands[2]}?"
    rationale = f"{bands[0]} is {tens}, {bands[1]} is {ones}, {bands[2]} adds {zeros} zeros."
    return Draft(text, f"{tens}{ones}{'0' * zeros}", rationale)


MACHINES = ("mill", "clock", "crane", "press", "mixer", "pump", "winch", "loom")


def _gears(rng: random.Random) -> Draft:
    driver, driven = (10 * number for number in _pair(rng))
    text = f"In a {rng.choice(MACHINES)} a gear with {driver} teeth drives one with {driven} teeth. "
    text += "How does the second turn?"
    answer = "faster" if driver > driven else "slower" if driver < driven else "equally fast"
    return Draft(text, answer, f"{driver} teeth drive {driven} teeth: {answer}.", ("faster", "slower", "equally fast"))


def _century(rng: random.Random) -> Draft:
    hundreds, rest = rng.randint(10, 20), rng.randint(1, 99)
    text = f"Which century (such as 12th) does the year {hundreds}{rest:02d} belong to?"
    ordinal = f"{hundreds + 1}{'st' if hundreds == 20 else 'th'}"
    return Draft(text, ordinal, f"The years {hundreds}01 to {hundreds + 1}00 are the {ordinal} century.")


WORKS = ("poem", "play", "opera", "novel", "painting", "chapel", "bridge", "statue")


def _earliest(rng: random.Random) -> Draft:
    works, years = rng.sample(WORKS, 3), rng.sample(range(1101, 1999), 3)
    dated = [f"the {work} of {year}" for work, year in zip(works, years, strict=True)]
    text = f"Which is the oldest: {dated[0]}, {dated[1]} or {dated[2]}?"
    answer = works[years.index(min(years))]
    return Draft(text, answer, f"{min(years)} is the earliest year: {answer}.", tuple(works))


def _backwards(rng: random.Random) -> Draft:
    word = "".join(rng.choice("BDFGKLMNPRST" if i % 2 == 0 else "AEIOU") for i in range(4))
    text = f"What is the code word {word} spelled backwards?"
    return Draft(text, word[::-1], f"{word} read from its end is {word[::-1]}.")


KINDS = {
    "a fruit": ("apple", "pear", "plum", "cherry", "grape"),
    "an animal": ("horse", "otter", "eagle", "salmon", "badger"),
    "a tool": ("hammer", "saw", "chisel", "pliers", "shovel"),
    "a metal": ("iron", "copper", "silver", "zinc", "nickel"),
    "a colour": ("blue", "green", "purple", "red", "yellow"),
    "a piece of clothing": ("coat", "scarf", "shirt", "glove", "sock"),
}


def _kind(rng: random.Random) -> Draft:
    kinds = rng.sample(sorted(KINDS), 3)
    words = tuple(rng.choice(KINDS[kind]) for kind in kinds)
    right = rng.randrange(3)
    rationale = f"The word {words[right]} names {kinds[right]}."
    return Draft(f"Which of these words names {kinds[right]}?", words[right], rationale, words)


FAMILIES = (
    Family("Math", "Arithmetic", _sum, 70, 10),
    Family("Math", "Number Theory", _divisor, 95, 6),
    Family("Biology/Medicine", "Genetics", _strand, 90, 10),
    Family("Biology/Medicine", "Heredity", _dominance, 95, 6),
    Family("Computer Science/AI", "Boolean Algebra", _bits, 80, 10),
    Family("Computer Science/AI", "Data Structures", _queue, 95, 6),
    Family("Physics", "Units", _units, 75, 10),
    Family("Physics", "Mechanics", _forces, 60, 6),
    Family("Chemistry", "Chemical Formulas", _formula, 70, 10),
    Family("Chemistry", "Acids and Bases", _acidity, 95, 6),
    Family("Engineering", "Electrical Engineering", _resistor, 90, 10),
    Family("Engineering", "Mechanical Engineering", _gears, 60, 6),
    Family("Humanities/Social Science", "Chronology", _century, 95, 10),
    Family("Humanities/Social Science", "Art History", _earliest, 55, 6),
    Family("Other", "Word Puzzles", _backwards, 90, 10),
    Family("Other", "Vocabulary", _kind, 65, 6),
)


def _ask(family: Family, draft: Draft) -> DemoQuestion:
    """Put a draft into words, the choices lettered in HLE's form."""
    if not draft.choices:
        return DemoQuestion(family, draft.text, draft.answer, "exactMatch", draft.rationale)
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", draft.choices, strict=False))
    letter = "ABCD"[draft.choices.index(draft.answer)]
    return DemoQuestion(family, f"{draft.text}\n\nAnswer Choices:\n{listed}", letter, "multipleChoice", draft.rationale)


def questions(family: Family, rng: random.Random, *, held_out: bool) -> Iterator[DemoQuestion]:
    """Endless questions of a family from one side of the fence; the training side may repeat itself."""
    while True:
        draft = family.draw(rng)
        if draft.held_out == held_out:
            yield _ask(family, draft)


def make_exam(seed: int = 0) -> list[DemoQuestion]:
    """The exam: 128 different held-out questions, the categories well mixed from the first question on."""
    rng = random.Random(f"exam {seed}")
    exam: list[DemoQuestion] = []
    for family in FAMILIES:
        drawn: dict[str, DemoQuestion] = {}
        source = questions(family, rng, held_out=True)
        while len(drawn) < family.n_exam:
            question = next(source)
            drawn.setdefault(question.text, question)
        exam += drawn.values()
    rng.shuffle(exam)
    return exam


def write_exam(path: Path = EXAM, seed: int = 0) -> None:
    """Write the exam as JSON lines, one row of HLE's schema a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(question.row(), ensure_ascii=False) for question in make_exam(seed)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
