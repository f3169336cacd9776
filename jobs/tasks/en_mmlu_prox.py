"""MMLU-ProX in English: 11,759 questions with up to ten options, in 91 subsets."""

from jobs.tasks.mmlu_pro import MmluProX


class EnMmluProX(MmluProX):
    """The questions of MMLU-Pro that the translations have too."""

    name = "en_mmlu_prox"
    dataset = "tokyotech-llm/MMLU-ProX-English"


TASK = EnMmluProX()
