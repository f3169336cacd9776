"""MATH-100 in Japanese: the 99 problems of MCLM's MT-MATH100 that the Swallow suite asks."""

from jobs.tasks.math_task import MathTask
from jobs.tasks.prompt_files import load_prompt


class JaMath100(MathTask):
    """`回答：5` without a box counts for the accuracy; `extractive_match` knows English labels only."""

    name = "ja_math_100"
    dataset = "amphora/MCLM:MT-MATH100"
    columns = ("id", "ja", "answer")
    problem_column = "ja"
    prompt = load_prompt("ja_math.txt")[0]
    last_line = r"回答: $\boxed{ANSWER}$"


TASK = JaMath100()
