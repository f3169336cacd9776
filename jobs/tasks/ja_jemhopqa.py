"""JEMHopQA without a request to think first."""

from jobs.tasks.jemhopqa import Jemhopqa
from jobs.tasks.prompt_files import load_prompt


class JaJemhopqa(Jemhopqa):
    name = "ja_jemhopqa"
    prompt = load_prompt("ja_jemhopqa.txt")[0]


TASK = JaJemhopqa()
