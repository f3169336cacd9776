"""Published shapes, as their config.json has them."""

from typing import Any

QWEN = {"model_type": "qwen3", "vocab_size": 151936, "head_dim": 128, "dtype": "bfloat16", "num_key_value_heads": 8}
QWEN |= {"tie_word_embeddings": False, "max_position_embeddings": 40960}
LLAMA = {"model_type": "llama", "vocab_size": 128256, "num_key_value_heads": 8, "dtype": "bfloat16"}
LLAMA |= {"tie_word_embeddings": False, "max_position_embeddings": 131072}


def sizes(hidden: int, layers: int, heads: int, width: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": width,
    }


LLAMA_8B: dict[str, Any] = LLAMA | sizes(4096, 32, 32, 14336)
LLAMA_405B: dict[str, Any] = LLAMA | sizes(16384, 126, 128, 53248)
QWEN_8B: dict[str, Any] = QWEN | sizes(4096, 36, 32, 12288)
QWEN_32B: dict[str, Any] = QWEN | sizes(5120, 64, 64, 25600)
QWEN_30B_A3B: dict[str, Any] = (
    QWEN
    | sizes(2048, 48, 32, 6144)
    | {"model_type": "qwen3_moe", "num_key_value_heads": 4, "moe_intermediate_size": 768}
    | {"num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": []}
)
MIXTRAL: dict[str, Any] = (
    LLAMA
    | sizes(4096, 32, 32, 14336)
    | {"model_type": "mixtral", "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2}
)
DEEPSEEK_V3: dict[str, Any] = (
    sizes(7168, 61, 128, 18432)
    | {"model_type": "deepseek_v3", "vocab_size": 129280, "num_key_value_heads": 128, "dtype": "bfloat16"}
    | {"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    | {"n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 2048}
    | {"first_k_dense_replace": 3, "tie_word_embeddings": False, "max_position_embeddings": 163840}
    | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
)
