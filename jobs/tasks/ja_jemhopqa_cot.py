"""JEMHopQA with a request to think step by step first."""

from jobs.tasks.jemhopqa import Jemhopqa
from jobs.tasks.prompt_files import load_prompt


class JaJemhopqaCot(Jemhopqa):
    name = "ja_jemhopqa_cot"
    prompt = load_prompt("ja_jemhopqa_cot.txt")[0]


TASK = JaJemhopqaCot()
