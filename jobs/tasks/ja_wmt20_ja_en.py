"""WMT20, Japanese to English: 993 sentences of news."""

from jobs.tasks.prompt_files import load_prompt
from jobs.tasks.translation import ANY_LABEL, Translation


class JaWmt20JaEn(Translation):
    name = "ja_wmt20_ja_en"
    dataset = "lighteval/sacrebleu_manual:wmt20_ja-en"
    source, target, label = "ja", "en", "English"
    prompt = load_prompt("ja_wmt20_ja_en.txt")[0]
    segmenters = {"bleu": "", ANY_LABEL: ""}


TASK = JaWmt20JaEn()
