"""HumanEval+: HumanEval's functions with many more tests; the Swallow suite's optional `en_humanevalplus`."""

from jobs.tasks.human_eval import HumanEval
from jobs.tasks.prompt_files import load_prompt


class HumanEvalPlus(HumanEval):
    """164 functions, described in English, with hundreds of tests each."""

    name = "en_humanevalplus"
    dataset = "evalplus/humanevalplus"
    prompt = load_prompt("en_humaneval.txt")[0]
    seconds = 120.0  # as in the original


TASK = HumanEvalPlus()
