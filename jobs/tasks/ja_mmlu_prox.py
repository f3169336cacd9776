"""MMLU-ProX in Japanese: 11,759 questions with up to ten options, in 91 subsets."""

from jobs.tasks.mmlu_pro import MmluProX
from jobs.tasks.multiple_choice import PROMPTS


class JaMmluProX(MmluProX):
    """The same questions as `en_mmlu_prox`."""

    name = "ja_mmlu_prox"
    dataset = "tokyotech-llm/MMLU-ProX-Japanese"
    language = "ja"
    prompt = PROMPTS["ja"]


TASK = JaMmluProX()
