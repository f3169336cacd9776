"""IFEval: 541 English prompts with 834 instructions that code can check; the figures are those of `ja_mifeval`."""

from collections.abc import Mapping

from jobs.tasks import instructions_en
from jobs.tasks.instruction_following import Check, InstructionFollowing


class EnglishInstructions(InstructionFollowing):
    """Asks each prompt as it is; every instruction has a check of its own."""

    name = "en_ifeval"
    dataset = "google/IFEval"
    split = "train"
    prefix = "en:"

    def checks(self) -> Mapping[str, Check]:
        return instructions_en.CHECKS

    def fixed_checks(self) -> Mapping[str, Check]:
        return instructions_en.FIXED


TASK = EnglishInstructions()
