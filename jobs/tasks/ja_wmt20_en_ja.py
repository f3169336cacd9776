"""WMT20, English to Japanese: 1,000 sentences of news."""

from jobs.tasks.prompt_files import load_prompt
from jobs.tasks.translation import ANY_LABEL, Translation


class JaWmt20EnJa(Translation):
    name = "ja_wmt20_en_ja"
    dataset = "lighteval/sacrebleu_manual:wmt20_en-ja"
    source, target, label = "en", "ja", "日本語"
    prompt = load_prompt("ja_wmt20_en_ja.txt")[0]
    segmenters = {"bleu": "janome", "bleu_lmevalja": "nagisa", ANY_LABEL: "janome"}


TASK = JaWmt20EnJa()
