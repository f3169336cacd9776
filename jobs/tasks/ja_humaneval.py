"""JHumanEval: HumanEval with its docstrings in Japanese; the Swallow suite's `ja_humaneval`."""

from jobs.tasks.human_eval import HumanEval
from jobs.tasks.prompt_files import load_prompt


class JHumanEval(HumanEval):
    """164 functions, described in Japanese."""

    name = "ja_humaneval"
    dataset = "kogi-jwu/jhumaneval:jhumaneval"
    prompt = load_prompt("ja_humaneval.txt")[0]


TASK = JHumanEval()
