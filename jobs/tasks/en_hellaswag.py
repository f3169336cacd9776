"""HellaSwag: 10,042 beginnings of a text with four endings, one of them the real one."""

import re
from collections.abc import Mapping
from typing import Any

from jobs.tasks.choice_rows import Choice, place_of
from jobs.tasks.multiple_choice import MultipleChoice
from jobs.tasks.prompt_files import load_prompt
from jobs.tasks.rows import require, text_of

_MARKERS = re.compile(r"\[(?:title|step|substeps)\]")  # of the source's layout


class EnHellaswag(MultipleChoice):
    """The subject is the activity. As in the original, endings lose their markers, and [header] stays."""

    name = "en_hellaswag"
    dataset = "Rowan/hellaswag"
    split = "validation"
    columns = ("id", "activity_label", "ctx_a", "ctx_b", "endings", "label")
    prompt = load_prompt("en_hellaswag.txt")[0]
    mark = ":"
    subject_columns = ("activity_label",)

    def choice(self, row: Mapping[str, Any], where: str, identity: str, number: int) -> Choice:
        require(row, "ctx_b", where)
        require(row, "endings", where)
        endings = row["endings"]
        if not isinstance(endings, list) or len(endings) != 4 or not all(isinstance(text, str) for text in endings):
            raise ValueError(f"{where}: endings is not a list of four texts")
        second = str(row["ctx_b"] or "").capitalize()  # which lower-cases all but the first character
        context = f"{text_of(row, 'activity_label', where)}: {text_of(row, 'ctx_a', where)} {second}".rstrip()
        options = [_MARKERS.sub("", text).strip() for text in endings]
        return Choice(context, options, place_of(row, "label", where, len(options)))


TASK = EnHellaswag()
