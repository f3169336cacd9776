"""Names what `jobs.prepare` makes: a task's own rows, or conversations and questions from any source."""

from jobs.tasks.gsm8k_rows import Gsm8kSpec
from orchestrator.training.data.prepare import ConversationsSpec, PrepareSpec, QuestionsSpec

TASKS: dict[str, type[PrepareSpec]] = {"gsm8k": Gsm8kSpec, "sft": ConversationsSpec, "rl": QuestionsSpec}
