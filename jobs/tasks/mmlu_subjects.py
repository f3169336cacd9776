"""The 57 subjects of MMLU and the 53 of JMMLU that the Swallow suite asks, in their four groups."""

_GROUPS = {
    "stem": """abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science
        college_mathematics college_physics computer_security conceptual_physics electrical_engineering
        elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science
        high_school_mathematics high_school_physics high_school_statistics machine_learning""",
    "humanities": """formal_logic high_school_european_history high_school_us_history high_school_world_history
        international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory
        professional_law world_religions""",
    "social_sciences": """econometrics high_school_geography high_school_government_and_politics
        high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality
        professional_psychology public_relations security_studies sociology us_foreign_policy""",
    "other": """business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing
        medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology""",
}
GROUPS = {group: tuple(subjects.split()) for group, subjects in _GROUPS.items()}
SUBJECTS = tuple(sorted(subject for group in GROUPS.values() for subject in group))

# What JMMLU does not translate, and what it asks beside; the original counts the two in none of its groups.
_NOT_IN_JMMLU = (
    *("high_school_government_and_politics", "us_foreign_policy", "high_school_us_history"),
    *("high_school_world_history", "moral_scenarios", "professional_law"),
)
JAPANESE_ONLY = ("japanese_history", "world_history")
JAPANESE_SUBJECTS = tuple(sorted({*SUBJECTS, *JAPANESE_ONLY} - {*_NOT_IN_JMMLU}))
JAPANESE_GROUPS = {
    group: tuple(
        subject
        for subject in (*subjects, *(JAPANESE_ONLY if group == "humanities" else ()))
        if subject not in _NOT_IN_JMMLU
    )
    for group, subjects in GROUPS.items()
}
