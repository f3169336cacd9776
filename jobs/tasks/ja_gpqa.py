"""GPQA in Japanese, the science part of BenchMAX: 448 questions of experts with four options."""

from jobs.tasks.gpqa import Gpqa
from jobs.tasks.multiple_choice import PROMPTS


class JaGpqa(Gpqa):
    """The main set in translation."""

    name = "ja_gpqa"
    dataset = "LLaMAX/BenchMAX_Science:ja"
    language = "ja"
    prompt = PROMPTS["ja"]


TASK = JaGpqa()
