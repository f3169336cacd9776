"""M-IFEval in Japanese: 172 prompts with 226 instructions that code can check.

The benchmark's figures are `prompt_level_strict_acc`, `inst_level_strict_acc`, both `loose`, and their mean, `average`;
`inst_level_strict_fixed` is the one to believe: see `instructions_ja`.
"""

from collections.abc import Mapping

from jobs.tasks import instructions_ja
from jobs.tasks.instruction_following import Check, InstructionFollowing


class JapaneseInstructions(InstructionFollowing):
    """Asks each prompt as it is; every instruction has a check of its own."""

    name = "ja_mifeval"
    dataset = "tokyotech-llm/M-IFEval-Ja"
    split = "test"

    def checks(self) -> Mapping[str, Check]:
        return instructions_ja.CHECKS

    def fixed_checks(self) -> Mapping[str, Check]:
        return instructions_ja.FIXED


TASK = JapaneseInstructions()
