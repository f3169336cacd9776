"""A language model's shape from its config: parameters by how tensor parallelism divides them, and its KV cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import SpecError

Config = Mapping[str, Any]

QKV_BIAS = ("qwen2", "qwen2_moe")  # where the code has these and the config says nothing of it
QK_NORM = ("qwen3", "qwen3_moe")
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
# Others are counted as plain decoders, which is said: an index file beside the config knows better.
COUNTED = ("llama", "mistral", "mixtral", *QKV_BIAS, *QK_NORM, "deepseek_v2", "deepseek_v3", "gpt_oss")


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of the whole model, in groups that tensor parallelism divides differently."""

    embedding: int  # of the input; shared with the output where they are tied
    head: int  # of the output, 0 where tied
    attention: int  # divided: queries, output; with MLA what leads up from the compressed cache
    kv: int  # keys and values: divided as far as there are heads
    mlp: int  # divided: dense layers and shared experts
    experts: int  # divided: routed experts
    routers: int  # on every GPU, never quantised
    replicated: int  # on every GPU: MLA's way down into the compressed cache
    norms: int  # on every GPU, never quantised; with the small change (sinks)

    @property
    def total(self) -> int:
        layers = self.attention + self.kv + self.mlp + self.experts + self.routers + self.replicated + self.norms
        return self.embedding + self.head + layers


@dataclass(frozen=True, slots=True)
class Shape:
    """What the planner needs to know of a model."""

    model_type: str
    layers: int
    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    cache_values: int  # of one token in one layer: 2 × KV heads × head_dim, or MLA's compressed vector
    attention_width: int  # values of queries that meet one cached token in one layer, and as many of the answers
    mla: bool
    widths: tuple[int, ...]  # of the MLPs that tensor parallelism cuts
    experts: int  # routed ones in a layer, 0 for a dense model
    experts_per_token: int
    sliding_layers: int
    sliding_window: int
    max_position_embeddings: int
    parameters: Parameters

    @property
    def active_share(self) -> float:
        """Of the routed experts' parameters, those that one token uses."""
        return self.experts_per_token / self.experts if self.experts else 0.0

    @property
    def active_parameters(self) -> float:
        """Parameters that one token is multiplied with in all layers; without the output, which prefill asks once."""
        p = self.parameters
        return p.attention + p.kv + p.mlp + p.routers + p.replicated + p.experts * self.active_share

    @property
    def output_parameters(self) -> int:
        return self.parameters.head or self.parameters.embedding

    def cache_bytes(self, tokens: int, value_bytes: float, tensor_parallel_size: int = 1) -> float:
        """Bytes of one sequence's cache on each GPU of a tensor parallel group, all layers.

        KV heads are divided as far as there are any, then replicated; MLA's compressed cache always is (vLLM:
        ModelConfig.get_num_kv_heads).
        """
        share = 1.0 if self.mla else max(1, self.kv_heads // tensor_parallel_size) / self.kv_heads
        return self.attended(tokens) * self.cache_values * share * value_bytes

    def attended(self, tokens: int) -> int:
        """Tokens that the next one looks back on, summed over the layers."""
        full = (self.layers - self.sliding_layers) * tokens
        return full + self.sliding_layers * min(tokens, self.sliding_window)


def read_shape(config: Config, model: str) -> Shape:
    """The shape of `model` from its config as transformers has it, to_dict(). Raises SpecError for a kind that has no
    such shape: layers without attention, keys that are missing."""
    config = config.get("text_config") or config
    try:
        return _read(config)
    except (KeyError, TypeError) as error:
        raise SpecError(
            f"the config of {model} ({config.get('model_type')}) cannot be planned with: {error} is missing or odd. "
            "Give tensor_parallel_size, pipeline_parallel_size and replicas yourself"
        ) from None


def _read(config: Config) -> Shape:
    layers, heads, hidden = config["num_hidden_layers"], config["num_attention_heads"], config["hidden_size"]
    kinds = config.get("layer_types") or []
    if set(kinds) - {"full_attention", "sliding_attention"}:
        raise KeyError(f"attention in layers of kind {sorted(set(kinds))}")
    mla = bool(config.get("kv_lora_rank"))
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    window = int(config.get("sliding_window") or 0)
    compressed = config["kv_lora_rank"] + config["qk_rope_head_dim"] if mla else 0
    n_experts = _first(config, EXPERT_COUNTS)
    return Shape(
        model_type=str(config.get("model_type")),
        layers=layers,
        hidden=hidden,
        vocab=config["vocab_size"],
        heads=heads,
        kv_heads=kv_heads,
        cache_values=compressed or 2 * kv_heads * head_dim,
        attention_width=heads * (compressed or head_dim),
        mla=mla,
        widths=_widths(config, n_experts),
        experts=n_experts,
        experts_per_token=config["num_experts_per_tok"] if n_experts else 0,
        sliding_layers=(kinds.count("sliding_attention") if kinds else layers) if window else 0,
        sliding_window=window,
        max_position_embeddings=config.get("max_position_embeddings") or 0,
        parameters=_parameters(config, n_experts, head_dim, kv_heads),
    )


def _parameters(config: Config, n_experts: int, head_dim: int, kv_heads: int) -> Parameters:
    layers, hidden, vocab = config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]
    kind = config.get("model_type")
    sparse = len(_sparse_layers(config)) if n_experts else 0
    attention, kv, replicated, small = _mla(config) if config.get("kv_lora_rank") else _gqa(config, head_dim, kv_heads)
    expert_width = config.get("moe_intermediate_size") or config["intermediate_size"]
    mlp_bias = (2 * config["intermediate_size"] + hidden) * bool(config.get("mlp_bias"))
    expert_bias = (2 * expert_width + hidden) * (kind == "gpt_oss")
    shared_gate = hidden * bool(config.get("shared_expert_intermediate_size"))
    router_bias = n_experts * (kind == "gpt_oss")
    return Parameters(
        embedding=vocab * hidden,
        head=0 if config.get("tie_word_embeddings") else vocab * hidden,
        attention=layers * attention,
        kv=layers * kv,
        mlp=(layers - sparse) * (3 * hidden * config["intermediate_size"] + mlp_bias)
        + sparse * 3 * hidden * _shared_width(config),
        experts=sparse * n_experts * (3 * hidden * expert_width + expert_bias),
        routers=sparse * (n_experts * hidden + router_bias + shared_gate),
        replicated=layers * replicated,
        norms=layers * (2 * hidden + small) + hidden,
    )


def _gqa(config: Config, head_dim: int, kv_heads: int) -> tuple[int, int, int, int]:
    """One layer's parameters: divided, keys and values, replicated, norms and the like."""
    hidden, heads, kind = config["hidden_size"], config["num_attention_heads"], config.get("model_type")
    bias = bool(config.get("attention_bias"))
    queries, keys = heads * head_dim, kv_heads * head_dim
    divided = 2 * hidden * queries + queries * (bias or kind in QKV_BIAS) + hidden * bias
    small = 2 * head_dim * (kind in QK_NORM) + heads * (kind == "gpt_oss")  # gpt-oss has an attention sink a head
    return divided, 2 * keys * (hidden + (bias or kind in QKV_BIAS)), 0, small


def _mla(config: Config) -> tuple[int, int, int, int]:
    """The same for multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    rope, nope, value = config["qk_rope_head_dim"], config["qk_nope_head_dim"], config["v_head_dim"]
    compressed, query_rank = config["kv_lora_rank"], config.get("q_lora_rank") or 0
    queries = (query_rank or hidden) * heads * (nope + rope)
    divided = queries + compressed * heads * (nope + value) + heads * value * hidden
    down = hidden * (compressed + rope) + hidden * query_rank
    return divided, 0, down, compressed + query_rank


def _sparse_layers(config: Config) -> list[int]:
    """The layers with experts: from the first after DeepSeek's dense ones, every so many of Qwen's."""
    first, step = config.get("first_k_dense_replace") or 0, config.get("decoder_sparse_step") or 1
    dense = config.get("mlp_only_layers") or []
    return [i for i in range(first, config["num_hidden_layers"]) if (i + 1) % step == 0 and i not in dense]


def _shared_width(config: Config) -> int:
    """Width of the experts that every token uses."""
    own = (config.get("n_shared_experts") or 0) * (config.get("moe_intermediate_size") or 0)
    return int(own or config.get("shared_expert_intermediate_size") or 0)


def _widths(config: Config, n_experts: int) -> tuple[int, ...]:
    if not n_experts:
        return (config["intermediate_size"],)
    sparse = len(_sparse_layers(config))
    routed = config.get("moe_intermediate_size") or config["intermediate_size"]
    dense = config["intermediate_size"] if sparse < config["num_hidden_layers"] else 0
    return tuple(sorted({width for width in (routed, _shared_width(config), dense) if width}))


def _first(config: Config, names: tuple[str, ...]) -> int:
    return int(next((config[name] for name in names if config.get(name)), 0))
