"""HumanEval: 164 Python functions to be completed; the Swallow suite's optional `en_humaneval`."""

from jobs.tasks.human_eval import HumanEval
from jobs.tasks.prompt_files import load_prompt


class HumanEvalEnglish(HumanEval):
    """164 functions, described in English."""

    name = "en_humaneval"
    dataset = "openai/openai_humaneval"
    prompt = load_prompt("en_humaneval.txt")[0]


TASK = HumanEvalEnglish()
