"""Tiny random models of many architectures: transformers' configurations with small sizes, nothing downloaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from prefloop.core.batch import Batch


def names(text: str) -> list[str]:
    return text.split()


ATTENTION = names("""llama mistral mixtral ministral3 qwen2 qwen2_moe qwen3 qwen3_moe gemma gemma2 gemma3_text
    gemma4_text gpt2 gpt_neo gpt_neox gptj gpt_bigcode gpt_oss opt bloom mpt falcon phi phi3 phimoe stablelm starcoder2
    codegen olmo olmo2 olmo3 olmoe cohere cohere2 granite granitemoe smollm3 exaone4 glm glm4 glm4_moe ernie4_5
    deepseek_v3 minimax_m2 persimmon xglm arcee apertus seed_oss helium diffllama biogpt ctrl""")
HYBRID = names("""lfm2 lfm2_moe lfm2_vl qwen3_next qwen3_5_text qwen3_5 mamba mamba2 falcon_mamba jamba bamba zamba
    granitemoehybrid falcon_h1 olmo_hybrid""")
IMAGES = names("gemma3 mistral3 llama4 qwen3_vl qwen2_vl qwen2_5_vl llava idefics3 internvl smolvlm")
UNCACHED = names("zamba2 nemotron_h rwkv xlstm minimax openai-gpt")
KINDS = [*ATTENTION, *HYBRID, *IMAGES, *UNCACHED]
RECURRENT = names("qwen3_next qwen3_5_text qwen3_5 olmo_hybrid zamba zamba2")  # delta rules and scans, in chunks
UNSCALED = names("gemma4_text")  # attention without 1/sqrt(d), which amplifies the rounding of its scores
WINDOW = 8  # tokens of sliding windows and chunks of attention, fewer than the tests read
SIZES: dict[int, str] = {  # by size, the many names of it
    64: "vocab_size",
    48: "intermediate_size ffn_dim n_inner ffn_hidden_size block_ff_dim encoder_ffn_dim decoder_ffn_dim",
    32: "hidden_size n_embd d_model embed_dim out_hidden_size projection_dim word_embed_proj_dim image_size",
    256: "max_position_embeddings n_positions max_seq_len n_ctx",
    16: "moe_intermediate_size shared_expert_intermediate_size mamba_d_head mamba_head_dim",
    8: "head_dim kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim rotary_dim state_size chunk_size"
    " mamba_d_state mamba_chunk_size linear_key_head_dim linear_value_head_dim patch_size sliding_window"
    " attention_chunk_size attention_window_size",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads num_experts"
    " num_local_experts n_routed_experts conv_kernel time_step_rank mamba_n_heads mamba_num_heads mm_tokens_per_image",
    3: "num_hidden_layers n_layer n_layers num_layers decoder_layers num_channels conv_L_cache",
    2: "num_key_value_heads n_kv_head num_kv_heads num_experts_per_tok linear_num_key_heads linear_num_value_heads"
    " depth",
    1: "n_groups n_group topk_group first_k_dense_replace n_shared_experts",
}
SMALL: dict[str, Any] = {name: size for size, names in SIZES.items() for name in names.split()}
IDS = {"pad_token_id": None, "eos_token_id": 1, "bos_token_id": 2}
PARTS = ("text_config", "vision_config")
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
OWN: dict[str, dict[str, Any]] = {  # where the sizes must fit together, or a kind of layer would be missing
    "bamba": {"attn_layer_indices": [1], **MAMBA},
    "deepseek_v3": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64, **MAMBA},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW, "num_layers": 2},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2, "num_hidden_layers": 4, **MAMBA},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_hidden_layers": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "expand": 2},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "mlp", "mamba"], "num_hidden_layers": 4},
    "qwen2_vl": {"rope_parameters": ROPE},
    "qwen2_5_vl": {"rope_parameters": ROPE},
    "roberta": {"pad_token_id": 0},
    "zamba": {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 1, "attention_hidden_size": 64}
    | {"attention_head_dim": 16, "n_mamba_heads": 2, "mamba_dt_rank": 4},
    "zamba2": {"num_hidden_layers": 4, "layer_types": ["mamba", "hybrid"] * 2, "hybrid_layer_ids": [1, 3]}
    | {"num_mem_blocks": 2, "mamba_ngroups": 1, "n_mamba_heads": 4, "mamba_headdim": 16, "num_key_value_heads": 4}
    | {"attention_head_dim": 16, "kv_channels": 8},
}


def config(kind: str, **options: Any) -> Any:
    """A configuration of a kind of model as transformers names it, with small sizes wherever it has one."""
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {kind}")
    return _small(CONFIG_MAPPING[kind], OWN.get(kind, {}) | options)


def _small(cls: Any, own: dict[str, Any]) -> Any:
    base = cls()
    given = base.to_dict()
    values = {k: v for k, v in SMALL.items() if k in given and isinstance(given[k], int | float)}
    values |= {k: v for k, v in IDS.items() if k in given} | {"initializer_range": 0.2, "vocab_size": 64}
    kinds = list(dict.fromkeys(given.get("layer_types") or []))
    if kinds and "num_hidden_layers" in given:
        values |= {"layer_types": (kinds * 4)[:4], "num_hidden_layers": 4}
    for part in PARTS:
        inner = getattr(base, part, None)
        if inner is not None:
            named = own if part == "text_config" else {}
            values[part] = _small(type(inner), named).to_dict()
    return cls(**(values | own))


def model(kind: str, seed: int = 0, **options: Any) -> Any:
    """A model whose distribution over tokens is far from uniform."""
    auto = AutoModelForCausalLM if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else AutoModelForImageTextToText
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = auto.from_config(config(kind, **options)).float().eval()
    return made


def tolerance(kind: str) -> float:
    """The largest difference of log-probs in float32 that is rounding."""
    return 1e-4 if kind in (*RECURRENT, *UNSCALED) else 1e-5


def alone(model, batch: Batch) -> Tensor:
    """Log-probs by the model's own forward, one text at a time, without padding or cache."""
    out = torch.zeros(batch.mask.shape)
    for p, g in batch.present.nonzero().tolist():
        response = batch.responses[p, g][batch.mask[p, g]]
        whole = torch.cat([batch.prompts[p], response])[None]
        logits = model(whole, use_cache=False).logits[0, len(batch.prompts[p]) - 1 : -1].float()
        out[p, g, : len(response)] = logits.log_softmax(-1).gather(-1, response[:, None])[:, 0]
    return out
