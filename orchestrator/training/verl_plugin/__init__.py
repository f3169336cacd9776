"""What verl imports into each of its processes, because VERL_USE_EXTERNAL_MODULES names it.

Everywhere: the value head loads without flash-attn, log probabilities are computed without a loop over tokens, and rows
can be packed. With VERL_PLATFORM=cpu also: verl trains on CPUs, and knows the rollout `hf_cpu`.
"""

import os

from orchestrator.training.verl_plugin import packed, patches

patches.load_value_head_without_flash_attention()
patches.compute_log_probs_without_flash_attention()
packed.install()
if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
    from orchestrator.training.verl_plugin import cpu

    cpu.install()
