"""Ways to continue prompts greedily, all of one form: (prompts, steps) -> seconds a step and the tokens.

The first token of each row comes from the prompt and is not timed; `steps` more are, one after the other.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from qwen3_scratch import Checkpoint
from qwen3_scratch.cache import KVCache
from qwen3_scratch.fast.compiling import compiled_by
from qwen3_scratch.fast.eager import eager_decoder
from qwen3_scratch.fast.streamed import STREAMED
from qwen3_scratch.generation import prepare
from qwen3_scratch.generation import steps as answering

from .measure import need, now


class Decoded(NamedTuple):
    """What came of a run: seconds a step, and every row's tokens, the prompt's first answer included."""

    seconds: float
    tokens: list[list[int]]


Prompts = Sequence[Sequence[int]]
Decoder = Callable[[Prompts, int], Decoded]


def ours(checkpoint: Checkpoint) -> Decoder:
    """The loop of `generate` itself, step by step, by the decoder that the checkpoint carries."""

    def decode(prompts: Prompts, steps: int) -> Decoded:
        prepared, rows, settings = prepare(checkpoint, prompts, max_new_tokens=steps + 1, temperature=0)
        loop = answering(prepared, rows, settings)
        next(loop)  # reads the prompt and, the first time, compiles
        start = now(checkpoint.device)
        for _ in range(steps):
            next(loop)
        return Decoded((now(checkpoint.device) - start) / steps, [row.tokens for row in rows])

    return decode


def strictly_compiled(checkpoint: Checkpoint, cache: KVCache, pick: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`compiled_decoder`, and Error where `generate` would go on uncompiled: that would measure something else."""
    advance = compiled_by(STREAMED, checkpoint, cache, pick)
    need(advance is not None, "nothing can be compiled on this machine")
    return advance


OURS = {"plain": eager_decoder, "compiled": strictly_compiled}


# ---- transformers --------------------------------------------------------------------------------


def transformers_model(checkpoint: Checkpoint) -> Any:
    """The reference on the very tensors of `checkpoint`, with its own choices of attention and experts."""
    from transformers import AutoConfig, Qwen3MoeForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    config = AutoConfig.from_pretrained(checkpoint.path)
    before = torch.get_default_dtype()
    torch.set_default_dtype(checkpoint.dtype)
    try:
        with torch.device("meta"):
            model = Qwen3MoeForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.load_state_dict(reference_tensors(checkpoint), strict=False, assign=True)
    model.tie_weights()
    with torch.device(checkpoint.device):  # a table, not a weight, so it is still on no device
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
    missing = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    assert not missing, missing
    return model.eval()


def reference_tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The tensors under the names that the reference has in memory, where its experts are stacked too."""
    weights = checkpoint.weights
    found = {"model.embed_tokens.weight": weights.embed_tokens, "model.norm.weight": weights.norm}
    found["lm_head.weight"] = weights.embed_tokens if weights.lm_head is None else weights.lm_head
    for number, layer in enumerate(weights.layers):
        attention = {f"self_attn.{name}": getattr(layer, name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
        attention |= {"self_attn.q_norm": layer.q_norm, "self_attn.k_norm": layer.k_norm, "mlp.gate": layer.router}
        norms = {name: getattr(layer, name) for name in ("input_layernorm", "post_attention_layernorm")}
        named = {f"{name}.weight": tensor for name, tensor in {**attention, **norms}.items()}
        named |= {"mlp.experts.gate_up_proj": layer.gate_up_proj, "mlp.experts.down_proj": layer.down_proj}
        found |= {f"model.layers.{number}.{name}": tensor for name, tensor in named.items()}
    return found


def default_experts(model: Any) -> str:
    """The experts implementation that transformers has taken by itself; to be asked before another is set."""
    return next(iter(model.get_experts_implementation().values()))


def transformers_generate(model: Any, experts: str, cache: str | None = None) -> Decoder:
    """`model.generate` as its users call it; a stopping criterion that never stops looks at the clock each step."""
    from transformers import StoppingCriteria

    class Clock(StoppingCriteria):
        def __init__(self):
            self.times: list[float] = []

        def __call__(self, input_ids, scores, **_):
            self.times.append(now(input_ids.device))
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def decode(prompts: Prompts, steps: int) -> Decoded:
        model.set_experts_implementation(experts)
        ids, clock = torch.tensor(prompts, device=model.device), Clock()
        options = dict(do_sample=False, max_new_tokens=steps + 1, eos_token_id=None, pad_token_id=0)
        options |= {} if cache is None else dict(cache_implementation=cache)
        found = model.generate(ids, attention_mask=torch.ones_like(ids), stopping_criteria=[clock], **options)
        spent = clock.times[-1] - clock.times[0]
        return Decoded(spent / steps, found[:, ids.shape[1] :].tolist())

    return decode


def transformers_loop(model: Any, experts: str) -> Decoder:
    """A bare loop over `model.forward` with its dynamic cache: what `generate` adds is left out."""
    from transformers import DynamicCache

    @torch.inference_mode()
    def decode(prompts: Prompts, steps: int) -> Decoded:
        model.set_experts_implementation(experts)
        past = DynamicCache(config=model.config)
        ids = torch.tensor(prompts, device=model.device)
        chosen = []
        for step in range(steps + 1):
            if step == 1:
                start = now(model.device)
            logits = model(ids, past_key_values=past, use_cache=True, logits_to_keep=1).logits
            ids = logits[:, -1].argmax(-1, keepdim=True)
            chosen.append(ids)
        return Decoded((now(model.device) - start) / steps, torch.cat(chosen, dim=1).tolist())

    return decode


def transformers_decoders(model: Any, batch: int, default: str) -> dict[str, Decoder]:
    """Its ways to generate, by name; `default` is the experts implementation that it takes by itself.

    Batched products copy the experts of each token, so they are for one row only.
    """
    others = [name for name in ("eager", "batched_mm", "grouped_mm") if name != default]
    found = {f"transformers generate, {default} (default)": transformers_generate(model, default)}
    for name in others if batch == 1 else ("eager",):
        found[f"transformers generate, {name}"] = transformers_generate(model, name)
    found["transformers generate, eager, static cache"] = transformers_generate(model, "eager", "static")
    found["transformers forward loop, eager"] = transformers_loop(model, "eager")
    return found
