"""What is measured: random checkpoints of a shape, made once, and GGUF files of the same numbers."""

import os
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from qwen3_scratch import (
    Checkpoint,
    Config,
    Error,
    Weights,
    init_weights,
    load_checkpoint,
    read_config,
    save_checkpoint,
)

from .measure import ROOT, need

STORE = ROOT / "checkpoints" / "bench"  # ignored by git
# llama.cpp makes the weights of the chosen experts sum to one whatever the file says, so all contestants do.
COMMON = dict(
    model_type="qwen3_moe", norm_topk_prob=True, rms_norm_eps=1e-6,
    tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, dtype="bfloat16",
)  # fmt: skip
TWO = dict(num_experts=2, num_experts_per_tok=1)
SHAPES = {
    "huihui": Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, moe_intermediate_size=3072, max_position_embeddings=40960, **TWO, **COMMON,
    ),
    "top-8": Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, moe_intermediate_size=768, max_position_embeddings=40960,
        num_experts=128, num_experts_per_tok=8, **COMMON,
    ),
    "tiny": Config(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, moe_intermediate_size=96, max_position_embeddings=16384, **TWO, **COMMON,
    ),
}  # fmt: skip
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def shape_config(shape: str) -> Config:
    need(shape in SHAPES, f"shape is {shape!r}, expected one of {', '.join(SHAPES)}: choose one of them")
    return SHAPES[shape]


def random_checkpoint(shape: str, store: Path = STORE) -> Path:
    """The folder of a random bf16 checkpoint of this shape, which the first call makes."""
    folder, config = store / shape, shape_config(shape)
    try:
        if read_config(folder) == config:  # config.json is written last: where it is, the weights are complete
            return folder
    except Error:
        pass
    save_checkpoint(Checkpoint(config, random_weights(config)), folder)
    return folder


def random_weights(config: Config, seed: int = 0) -> Weights:
    """As training starts, but with norms about one rather than one, so that no weight can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)

    def vary(tensor: Tensor) -> Tensor:
        return tensor if tensor.ndim > 1 else tensor + 0.1 * torch.randn(tensor.shape, generator=generator)

    weights = init_weights(config, seed=seed)
    return tree_map_only(Tensor, lambda tensor: vary(tensor).to(tensor.dtype), weights)


def load(folder: Path, dtype: str, device: torch.device | str = "cpu") -> Checkpoint:
    return load_checkpoint(folder, dtype=DTYPES[dtype], device=device)


def random_prompts(config: Config, rows: int, length: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (rows, length), generator=generator).tolist()


def weight_bytes(config: Config, dtype: str) -> int:
    """Bytes of weights that one token reads: all of a tied embedding, as head; of an untied one a single row."""
    count = config.num_parameters(active=True)
    count -= 0 if config.tie_word_embeddings else (config.vocab_size - 1) * config.hidden_size
    return count * DTYPES[dtype].itemsize


def cache_bytes(config: Config, dtype: str, length: int) -> int:
    """Bytes of keys and values that one token reads at this length of the text."""
    each = 2 * config.num_key_value_heads * config.head_dim * DTYPES[dtype].itemsize
    windows = (config.window(layer) or length for layer in range(config.num_hidden_layers))
    return sum(each * min(length, window) for window in windows)


# ---- the same numbers for llama.cpp --------------------------------------------------------------


def gguf_file(folder: Path, dtype: str) -> Path:
    """A checkpoint's GGUF file beside its weights, which the first call writes; Error without the `gguf` package."""
    path = folder / f"{dtype}.gguf"
    if not path.exists() or path.stat().st_mtime < (folder / "config.json").stat().st_mtime:
        write_gguf(load(folder, dtype), path)
    return path


def write_gguf(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the `qwen3moe` architecture; as usual in this format norms and routers stand in fp32.

    Raises Error for what this architecture cannot say, and where the `gguf` package is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise Error("gguf is not installed: install the project's extra [bench]") from None
    config, wide = checkpoint.config, checkpoint.dtype == torch.float32
    check_expressible(config)
    partial = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(partial, "qwen3moe")
    try:
        add_sizes(writer, config)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32 if wide else gguf.LlamaFileType.MOSTLY_BF16)
        for name, tensor in gguf_tensors(checkpoint.weights):
            if wide or tensor.ndim == 1 or name.endswith("ffn_gate_inp.weight"):
                writer.add_tensor(name, tensor.float().contiguous().numpy())
            else:  # numpy knows no bf16: its bytes
                raw = tensor.contiguous().view(torch.uint8).numpy()
                writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def check_expressible(config: Config) -> None:
    """Raises Error for a model that llama.cpp's `qwen3moe` would compute differently."""
    layers = range(config.num_hidden_layers)
    for holds, found in (
        (config.norm_topk_prob, "norm_topk_prob is false"),
        (all(config.is_sparse(layer) for layer in layers), "there are dense layers"),
        (not config.attention_bias, "attention_bias is true"),
        (config.sliding_window is None, "there is a sliding window"),
        (config.rope_parameters["rope_type"] == "default", "rope_type is not 'default'"),
    ):
        need(holds, f"config: {found}, which GGUF's qwen3moe cannot say: choose another checkpoint")


def add_sizes(writer, config: Config) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")  # tokens go in and out as numbers
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)


def gguf_tensors(weights: Weights):
    """The format's names and the tensors, in order; experts stay stacked, gate and up are apart."""
    yield "token_embd.weight", weights.embed_tokens
    if weights.lm_head is not None:
        yield "output.weight", weights.lm_head
    yield "output_norm.weight", weights.norm
    for number, layer in enumerate(weights.layers):
        gate, up = layer.gate_up_proj.chunk(2, dim=1)
        named = dict(
            attn_norm=layer.input_layernorm, attn_q=layer.q_proj, attn_k=layer.k_proj, attn_v=layer.v_proj,
            attn_output=layer.o_proj, attn_q_norm=layer.q_norm, attn_k_norm=layer.k_norm,
            ffn_norm=layer.post_attention_layernorm, ffn_gate_inp=layer.router, ffn_gate_exps=gate, ffn_up_exps=up,
            ffn_down_exps=layer.down_proj,
        )  # fmt: skip
        for name, tensor in named.items():
            yield f"blk.{number}.{name}.weight", tensor
