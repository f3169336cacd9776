"""MT-Bench in Japanese, as the Swallow suite asks it: see `mt_bench`."""

from jobs.tasks.mt_bench import MtBench, RatingJudge
from jobs.tasks.prompt_files import load_prompt


class JapaneseMtBench(MtBench):
    """80 conversations of two turns."""

    name = "ja_mtbench"
    dataset = "tokyotech-llm/swallow_japanese_mt_bench"
    judge = RatingJudge(load_prompt("ja_mtbench_judge.txt")[0])
    japanese = True


TASK = JapaneseMtBench()
