"""What MMLU-Pro and MMLU-ProX share: 91 subsets, named after where their questions come from, in 14 groups."""

from collections.abc import Mapping
from typing import Any

from jobs.tasks import choice_rows
from jobs.tasks.choice_reading import LETTERS
from jobs.tasks.multiple_choice import SUBJECT_COLUMNS, MultipleChoice

_PREFIXES = {"o": "ori_mmlu", "s": "stemez", "t": "theoremQA", "b": "scibench"}
_GROUPS = {
    "business": "o:business_ethics,management,marketing s:Business t:Finance",
    "law": "o:international_law,jurisprudence,professional_law",
    "psychology": "o:high_school_psychology,professional_psychology s:Psychology",
    "biology": "o:college_biology,high_school_biology s:Biology,Genetics",
    "chemistry": "b:atkins,chemmc,matter,quan o:college_chemistry,high_school_chemistry "
    "s:Chemistry,OrganicChemistry,PhysicalChemistry",
    "history": "o:high_school_european_history,high_school_us_history,high_school_world_history,prehistory",
    "other": "o:global_facts,high_school_geography,high_school_government_and_politics,human_sexuality,miscellaneous,"
    "professional_accounting,public_relations,security_studies,sociology,us_foreign_policy",
    "health": "o:anatomy,clinical_knowledge,college_medicine,human_aging,medical_genetics,nutrition,"
    "professional_medicine,virology",
    "economics": "o:econometrics,high_school_macroeconomics,high_school_microeconomics s:Economics",
    "math": "b:calculus,diff,stat o:abstract_algebra,college_mathematics,elementary_mathematics,"
    "high_school_mathematics,high_school_statistics t:Math",
    "physics": "b:class,fund,thermo o:astronomy,college_physics,conceptual_physics,high_school_physics "
    "s:Mechanics,Optics,Physics t:Physics",
    "computer_science": "o:college_computer_science,computer_security,high_school_computer_science,machine_learning "
    "s:ComputerScience t:EECS",
    "philosophy": "o:formal_logic,logical_fallacies,moral_disputes,philosophy,world_religions",
    "engineering": "o:electrical_engineering s:ElectricCircuits,ElectricalMachines,Electromagnetics,"
    "ElectronicCommunications,FluidMechanics,HeatTransfer,MachineDesign,Thermodynamics,TransportPhenomena",
}


def _subsets(text: str) -> tuple[str, ...]:
    parts = (part.split(":") for part in text.split())
    return tuple(f"{_PREFIXES[source]}_{name}" for source, names in parts for name in names.split(","))


GROUPS = {group: _subsets(text) for group, text in _GROUPS.items()}
SUBSETS = tuple(sorted(subset for group in GROUPS.values() for subset in group))


class MmluPro(MultipleChoice):
    """Up to ten options. The column `src` of the data's first publishers names the subset with a hyphen."""

    groups = GROUPS
    configs = known_categories = SUBSETS
    subject_columns = ("config", "subset", "src", *SUBJECT_COLUMNS[1:])

    def subject(self, row: Mapping[str, Any]) -> str:
        return super().subject(row).replace("-", "_")


class MmluProX(MmluPro):
    """The options are in columns of their own."""

    columns = (
        *("id", *MmluPro.subject_columns, "question", "answer_index"),
        *(f"option_{number}" for number in range(len(LETTERS))),
    )

    def choice(self, row: Mapping[str, Any], where: str, identity: str, number: int) -> choice_rows.Choice:
        return choice_rows.numbered(row, where)
