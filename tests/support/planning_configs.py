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

QWEN_0_6B: dict[str, Any] = QWEN | sizes(1024, 28, 16, 3072) | {"tie_word_embeddings": True}
QWEN_1_7B: dict[str, Any] = QWEN | sizes(2048, 28, 16, 6144) | {"tie_word_embeddings": True}
QWEN_4B: dict[str, Any] = QWEN | sizes(2560, 36, 32, 9728) | {"tie_word_embeddings": True}
QWEN_14B: dict[str, Any] = QWEN | sizes(5120, 40, 40, 17408)
QWEN_235B_A22B: dict[str, Any] = QWEN_30B_A3B | sizes(4096, 94, 64, 12288) | {"moe_intermediate_size": 1536}
QWEN2 = QWEN | {"model_type": "qwen2", "vocab_size": 152064, "max_position_embeddings": 32768}
QWEN2_7B: dict[str, Any] = QWEN2 | sizes(3584, 28, 28, 18944) | {"num_key_value_heads": 4}
QWEN2_32B: dict[str, Any] = QWEN2 | sizes(5120, 64, 40, 27648)
QWEN2_72B: dict[str, Any] = QWEN2 | sizes(8192, 80, 64, 29568)
LLAMA_70B: dict[str, Any] = LLAMA | sizes(8192, 80, 64, 28672)
MISTRAL_7B: dict[str, Any] = (
    LLAMA
    | sizes(4096, 32, 32, 14336)
    | {"model_type": "mistral", "vocab_size": 32768, "max_position_embeddings": 32768}
)
MISTRAL_SMALL_24B: dict[str, Any] = (
    MISTRAL_7B | sizes(5120, 40, 32, 32768) | {"head_dim": 128, "vocab_size": 131072, "sliding_window": None}
)
MIXTRAL_8X22B: dict[str, Any] = MIXTRAL | sizes(6144, 56, 48, 16384) | {"max_position_embeddings": 65536}
GEMMA_2_27B: dict[str, Any] = (
    sizes(4608, 46, 32, 36864)
    | {"model_type": "gemma2", "vocab_size": 256000, "num_key_value_heads": 16, "head_dim": 128, "dtype": "bfloat16"}
    | {"tie_word_embeddings": True, "max_position_embeddings": 8192, "sliding_window": 4096}
)
GPT_OSS_120B: dict[str, Any] = (
    sizes(2880, 36, 64, 2880)
    | {"model_type": "gpt_oss", "vocab_size": 201088, "num_key_value_heads": 8, "head_dim": 64, "dtype": "bfloat16"}
    | {"num_local_experts": 128, "num_experts_per_tok": 4, "attention_bias": True, "sliding_window": 128}
    | {"tie_word_embeddings": False, "max_position_embeddings": 131072}
    | {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}}
)
GPT_OSS_20B: dict[str, Any] = GPT_OSS_120B | {"num_hidden_layers": 24, "num_local_experts": 32}

PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": QWEN_0_6B,
    "Qwen3-1.7B": QWEN_1_7B,
    "Qwen3-4B": QWEN_4B,
    "Qwen3-8B": QWEN_8B,
    "Qwen3-14B": QWEN_14B,
    "Qwen3-32B": QWEN_32B,
    "Qwen3-30B-A3B": QWEN_30B_A3B,
    "Qwen3-235B-A22B": QWEN_235B_A22B,
    "Qwen2.5-7B": QWEN2_7B,
    "Qwen2.5-32B": QWEN2_32B,
    "Qwen2.5-72B": QWEN2_72B,
    "Llama-3.1-8B": LLAMA_8B,
    "Llama-3.3-70B": LLAMA_70B,
    "Llama-3.1-405B": LLAMA_405B,
    "Mistral-7B-v0.3": MISTRAL_7B,
    "Mistral-Small-24B": MISTRAL_SMALL_24B,
    "Mixtral-8x7B": MIXTRAL,
    "Mixtral-8x22B": MIXTRAL_8X22B,
    "gemma-2-27b": GEMMA_2_27B,
    "DeepSeek-V3": DEEPSEEK_V3,
    "gpt-oss-20b": GPT_OSS_20B,
    "gpt-oss-120b": GPT_OSS_120B,
}
