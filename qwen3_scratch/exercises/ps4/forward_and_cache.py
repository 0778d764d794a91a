"""ps4: a layer, the whole model, how well it predicts, and the cache that writing needs (notebooks 08 and 09)."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ... import model
from ...config import Config
from ...inside import wrong_steps
from ...model import LayerWeights, Table, Weights, rms_norm
from ..checking import Case, Exercise, Mistake, Stage, case, trained
from ..material import randint, randn, recorded, text_ids, tiny
from ..ps2.attention_scores import other_masks
from .cached_steps import CACHED_STEP, ROW_POSITIONS
from .forgetting import FORGETTING_STEP
from .next_token import PERPLEXITY
from .prompts_alike import REUSE
from .small_models import SET, copied, drawn_weights, small_config
from .writing_text import GREEDY, KV_CACHE_BYTES

# ---- decoder_layer ---------------------------------------------------------------------------


def decoder_layer(x: Tensor, layer: LayerWeights, config: Config, table: Table, mask: Tensor) -> Tensor:
    return model.decoder_layer(x, layer, config, table, mask)


def layer_case(g: torch.Generator, batch: int, seq: int, note: str = "", scale: int = 1, **fixed: Any) -> Case:
    config = small_config(g, **fixed)
    layer, positions = drawn_weights(g, config).layers[0], torch.arange(seq)[None]
    table = model.rope_table(config, positions)
    mask = model.attention_mask(positions, positions)
    return case(scale * randn(g, batch, seq, config.hidden_size), layer, config, table, mask, note=note)


def layer_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(6):
        yield layer_case(g, randint(g, 2, 4), randint(g, 4, 9))


def layer_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    dense: dict[str, Any] = dict(model_type="qwen3", num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)
    yield layer_case(g, 1, 1, note="one token")
    yield layer_case(g, 2, 5, note="a dense layer", **dense)
    yield layer_case(g, 2, 5, note="a long stream", scale=50)
    yield layer_case(g, 3, 4, note="a large eps", rms_norm_eps=0.5)
    yield layer_case(g, 2, 6, note="biases", attention_bias=True)


def layer_masks(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for note, mask in other_masks(g, 2, 1, 5, 5):
        yield case(*layer_case(g, 2, 5).args[:4], mask, note=note)


def layer_real(seed: int) -> Iterator[Case]:
    for call in recorded("decoder_layer", seed):
        x, layer, config, table, mask = list(call.inputs.values())[:5]
        yield case(x.clone(), copied(layer), config, copied(table), mask.clone())


Half = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, Half, Half], Tensor]


def in_two(
    first: Step, second: Step, order: tuple[int, int] = (0, 1), eps: int | float | None = None
) -> Callable[..., Tensor]:
    """A layer whose halves are made of (stream, norm, step) in other ways; `order` says which half has which norm."""

    def wrong(x: Tensor, layer: LayerWeights, config: Config, table: Table, mask: Tensor) -> Tensor:
        weights = [(layer.input_layernorm, layer.post_attention_layernorm)[number] for number in order]
        norms = [lambda x, weight=weight: rms_norm(x, weight, eps or config.rms_norm_eps) for weight in weights]
        x = first(x, norms[0], lambda x: model.self_attention(x, layer, config, table, mask))
        return second(x, norms[1], lambda x: model.feed_forward(x, layer, config))

    return wrong


def right(x: Tensor, norm: Half, step: Half) -> Tensor:
    return x + step(norm(x))


def not_added(x: Tensor, norm: Half, step: Half) -> Tensor:
    return step(norm(x))


def not_normed(x: Tensor, norm: Half, step: Half) -> Tensor:
    return x + step(x)


def after_adding(x: Tensor, norm: Half, step: Half) -> Tensor:
    return norm(x + step(x))


def on_the_answer(x: Tensor, norm: Half, step: Half) -> Tensor:
    return x + norm(step(x))


def stream_normed(x: Tensor, norm: Half, step: Half) -> Tensor:
    return norm(x) + step(norm(x))


def second_from_start(x: Tensor, layer: LayerWeights, config: Config, table: Table, mask: Tensor) -> Tensor:
    attended = in_two(right, lambda x, norm, step: x)(x, layer, config, table, mask)
    return x + in_two(lambda x, norm, step: x, not_added)(attended, layer, config, table, mask)


def side_by_side(x: Tensor, layer: LayerWeights, config: Config, table: Table, mask: Tensor) -> Tensor:
    attended = in_two(right, lambda x, norm, step: x)(x, layer, config, table, mask)
    return attended + in_two(lambda x, norm, step: x, not_added)(x, layer, config, table, mask)


NORMED_COPY = "You add to the normed copy; add to the stream as it was before the norm."
DECODER_LAYER = Exercise(
    "decoder_layer",
    SET,
    decoder_layer,
    stages=(
        Stage("random layers", layer_shapes),
        Stage("odd configurations", layer_odd),
        Stage("other masks", layer_masks),
        Stage("the real checkpoint's activations", layer_real),
        trained(layer_shapes, "table"),
    ),
    loose=True,
    mistakes=(
        Mistake("What attention gathers replaces the stream; add it to the stream.", in_two(not_added, right)),
        Mistake("What the feed-forward answers replaces the stream; add it to the stream.", in_two(right, not_added)),
        Mistake("Both halves replace the stream; each adds to it.", in_two(not_added, not_added)),
        Mistake("You norm the stream after adding; norm a copy before each step, and add to the stream as it is.",
                in_two(after_adding, after_adding)),
        Mistake("You norm what a step answers; norm what goes into it.", in_two(on_the_answer, on_the_answer)),
        Mistake(NORMED_COPY, in_two(stream_normed, stream_normed)),
        Mistake(NORMED_COPY, in_two(stream_normed, right)),
        Mistake(NORMED_COPY, in_two(right, stream_normed)),
        Mistake("The second sum begins at the first stream: what attention gathered is lost. Begin at the new one.",
                second_from_start),
        Mistake("The feed-forward reads the stream from before attention; it reads the new one.", side_by_side),
        Mistake("Both halves have the first norm; the second has `post_attention_layernorm`.",
                in_two(right, right, (0, 0))),
        Mistake("The two norms are swapped: `input_layernorm` stands before attention.", in_two(right, right, (1, 0))),
        Mistake("Attention reads the stream without its norm.", in_two(not_normed, right)),
        Mistake("The feed-forward reads the stream without its norm.", in_two(right, not_normed)),
        Mistake("Both norms are missing.", in_two(not_normed, not_normed)),
        Mistake("You use an eps of your own; take `config.rms_norm_eps`.",
                in_two(right, right, eps=1e-6)),
    ),
    own=(model.decoder_layer,),
)  # fmt: skip

# ---- forward ---------------------------------------------------------------------------------


def forward(weights: Weights, token_ids: Tensor, config: Config, logits_to_keep: int = 0) -> Tensor:
    return model.forward(weights, token_ids, config, logits_to_keep=logits_to_keep)


def forward_case(g: torch.Generator, batch: int, seq: int, keep: int, note: str = "", **fixed: object) -> Case:
    config = small_config(g, **fixed)
    ids = randint(g, 0, config.vocab_size, batch, seq)
    return case(drawn_weights(g, config), ids, config, keep, note=note)


def forward_shapes(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(4):
        yield forward_case(g, 2, randint(g, 6, 10), 0, note="a tied head")
    yield forward_case(g, 2, 7, 0, note="a head of its own", tie_word_embeddings=False)
    for keep in (1, 3):
        yield forward_case(g, 2, 8, keep, note=f"logits of the last {keep}")


def forward_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield forward_case(g, 1, 1, 1, note="one token")
    for keep in (5, 6):
        yield forward_case(g, 3, 6, keep, note=f"logits of {keep} of 6")
    yield forward_case(g, 2, 9, 0, note="four layers", num_hidden_layers=4)
    yield forward_case(g, 2, 6, 2, note="a large eps", rms_norm_eps=0.5)
    theta = {"rope_type": "default", "rope_theta": 500.0}
    for window in (1, 5, 40):
        yield forward_case(g, 2, 9, 0, note=f"a window of {window}", sliding_window=window)
    yield forward_case(g, 1, 9, 1, note="another theta", rope_parameters=theta, tie_word_embeddings=False)


def forward_real(seed: int) -> Iterator[Case]:
    for keep in (0, 1):
        yield case(copied(tiny().weights), text_ids(seed, 40), tiny().config, keep)


def of(weights: Callable[[Weights, Config], Weights] = lambda weights, config: weights,
       config: Callable[[Config], Config] = lambda config: config, ops: model.Ops = model.Ops(),
       then: Callable[[Tensor, int], Tensor] | None = None) -> Callable[..., Tensor]:  # fmt: skip
    """`forward` with a part of its arguments or its result changed."""

    def changed(weights_: Weights, token_ids: Tensor, config_: Config, logits_to_keep: int = 0) -> Tensor:
        given = weights(weights_, config_), token_ids, config(config_)
        if then is None:
            return model.forward(*given, logits_to_keep=logits_to_keep, ops=ops)
        return then(model.forward(*given, ops=ops), logits_to_keep)

    return changed


def without_windows(config: Config) -> Config:
    return replace(config, layer_types=("full_attention",) * config.num_hidden_layers)


def windows_of_the_last(config: Config) -> Config:
    return replace(config, layer_types=config.layer_types[-1:] * config.num_hidden_layers)


def no_last_norm(weights: Weights, token_ids: Tensor, config: Config, logits_to_keep: int = 0) -> Tensor:
    def norm(x: Tensor, weight: Tensor, eps: int | float) -> Tensor:
        return x if weight is weights.norm else rms_norm(x, weight, eps)

    return model.forward(weights, token_ids, config, logits_to_keep=logits_to_keep, ops=model.Ops(norm=norm))


def scaled_embedding(ids: Tensor, table: Tensor) -> Tensor:
    return model.embed(ids, table) * table.shape[-1] ** 0.5


FORWARD = Exercise(
    "forward",
    SET,
    forward,
    stages=(
        Stage("random models", forward_shapes),
        Stage("odd configurations", forward_odd),
        Stage("the real checkpoint", forward_real),
        trained(forward_shapes),
    ),
    loose=True,
    mistakes=(
        Mistake("The last norm is missing: norm the stream before the head.", no_last_norm),
        Mistake("Layers with a sliding window see too far: make the mask for each layer, with `config.window(number)`.",
                of(config=without_windows)),
        Mistake("Every layer has the window of the last; ask `config.window(number)` for each.",
                of(config=windows_of_the_last)),
        Mistake("Tokens see what comes after them: make the mask with `model.attention_mask`.",
                of(ops=model.Ops(mask=wrong_steps.no_causal_mask))),
        Mistake("The head is tied only where `weights.lm_head` is None; here it is a tensor of its own.",
                of(lambda weights, config: weights._replace(lm_head=None))),
        Mistake("You use the first layer's weights in every layer.",
                of(lambda weights, config: weights._replace(layers=weights.layers[:1] * len(weights.layers)))),
        Mistake("One layer is missing at the end.",
                of(lambda weights, config: weights._replace(layers=weights.layers[:-1]))),
        Mistake("The layers run from the last to the first.",
                of(lambda weights, config: weights._replace(layers=weights.layers[::-1]))),
        Mistake("You keep the first places; keep the last `logits_to_keep`.",
                of(then=lambda logits, keep: logits[:, :keep] if keep else logits)),
        Mistake("You return the logits of every place; keep the last `logits_to_keep` (0 keeps all).",
                of(then=lambda logits, keep: logits)),
        Mistake("You return one place without its dimension; `[:, -logits_to_keep:]` keeps it.",
                of(then=lambda logits, keep: logits[:, -keep] if keep else logits)),
        Mistake("With `logits_to_keep` 0 all are kept.",
                of(then=lambda logits, keep: logits[:, logits.shape[1] - keep:])),
        Mistake("These are probabilities; logits come before the softmax.",
                of(then=lambda logits, keep: logits[:, -keep:].softmax(-1))),
        Mistake("You scale the embedding by the root of hidden_size, as Gemma does; Qwen3 does not.",
                of(ops=model.Ops(embed=scaled_embedding))),
    ),
    own=(model.forward, model.hidden_states),
)  # fmt: skip

EXERCISES = (
    DECODER_LAYER,
    FORWARD,
    PERPLEXITY,
    ROW_POSITIONS,
    CACHED_STEP,
    KV_CACHE_BYTES,
    FORGETTING_STEP,
    GREEDY,
    REUSE,
)
