"""MT-Bench in English, as the Swallow suite asks it: see `mt_bench`."""

from jobs.tasks.mt_bench import MtBench, RatingJudge
from jobs.tasks.prompt_files import load_prompt


class EnglishMtBench(MtBench):
    """80 conversations of two turns."""

    name = "en_mtbench"
    dataset = "tokyotech-llm/swallow_english_mt_bench"
    judge = RatingJudge(load_prompt("en_mtbench_judge.txt")[0])


TASK = EnglishMtBench()
