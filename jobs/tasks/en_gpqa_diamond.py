"""GPQA's diamond subset: 198 questions of experts with four options. Its data are gated."""

from jobs.tasks.gpqa import Gpqa


class EnGpqaDiamond(Gpqa):
    """The questions that experts answer and others do not."""

    name = "en_gpqa_diamond"
    dataset = "Idavidrein/gpqa:gpqa_diamond"


TASK = EnGpqaDiamond()
