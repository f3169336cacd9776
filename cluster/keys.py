"""What a secret looks like: by the name of a variable, and by its own letters."""

import re

# Of an environment variable, in words that bash's regular expressions have too. HF_TOKEN and PGPASSWORD are secrets;
# PWD, SSH_AUTH_SOCK and TOKENIZERS_PARALLELISM are not secrets.
NAME = re.compile(
    r"(^|_)(API_?KEYS?|KEYS?|TOKEN|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?)(_|$)"
    r"|(TOKEN|SECRET|PASSWORD|PASSWD|APIKEY|SSHPASS|_PASS|_PWD|_PAT|_AUTH)$",
    re.IGNORECASE,
)
# As those who give keys out make them; each with the length of a real one, so that hf_… and sk-… do not match.
SHAPE = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}\b|\bsk-[A-Za-z0-9_-]{32,}|\bgsk_[A-Za-z0-9]{40,}\b|\bnvapi-[A-Za-z0-9_-]{40,}"
    r"|\bxai-[A-Za-z0-9]{40,}\b|\br8_[A-Za-z0-9]{30,}\b|\bAIza[A-Za-z0-9_-]{35}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{40,}|\bglpat-[A-Za-z0-9_-]{20,}"
    r"|\bnpm_[A-Za-z0-9]{36}\b|\bpypi-AgE[A-Za-z0-9_-]{50,}|\bxox[abprs]-[A-Za-z0-9-]{20,}"
)
# Long words without a shape of their own, behind what says that they are keys; one that is only letters is a word.
NAMED = re.compile(
    r"(?:api[_-]?key|secret(?:[_-]?access)?(?:[_-]?key)?|access[_-]?token|auth[_-]?token|password)[\"']?"
    r"(?:\s*[:=]\s*|[ \t]+)[\"']?(?=[A-Za-z/+_-]*\d)[A-Za-z0-9/+_-]{32,}",
    re.IGNORECASE,
)
PRIVATE = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----")


def holds_key(text: str) -> bool:
    """Whether a text holds what is most likely a key."""
    return any(pattern.search(text) for pattern in (SHAPE, PRIVATE, NAMED))
