"""Wrong answers to ps4_forward_and_cache, and what has to be said of each."""

from collections.abc import Callable, Sequence, Set  # noqa: F401 (what the notebook gives)

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int  # noqa: F401
from torch import Tensor  # noqa: F401

from qwen3_scratch import Config, Weights, model  # noqa: F401
from qwen3_scratch.model import LayerWeights  # noqa: F401

from . import ps4_cache, ps4_forgetting
from .ps4_cache import *  # noqa: F403
from .ps4_forgetting import *  # noqa: F403

# ---- decoder_layer ---------------------------------------------------------------------------


def decoder_layer__no_residual(x, layer, config, table, mask):
    x = model.self_attention(model.rms_norm(x, layer.input_layernorm, config.rms_norm_eps), layer, config, table, mask)
    normed = model.rms_norm(x, layer.post_attention_layernorm, config.rms_norm_eps)
    return model.feed_forward(normed, layer, config)


def decoder_layer__norm_after_adding(x, layer, config, table, mask):
    x = model.rms_norm(
        x + model.self_attention(x, layer, config, table, mask), layer.input_layernorm, config.rms_norm_eps
    )
    return model.rms_norm(x + model.feed_forward(x, layer, config), layer.post_attention_layernorm, config.rms_norm_eps)


def decoder_layer__adds_to_the_copy(x, layer, config, table, mask):
    x = model.rms_norm(x, layer.input_layernorm, config.rms_norm_eps)
    x = x + model.self_attention(x, layer, config, table, mask)
    x = model.rms_norm(x, layer.post_attention_layernorm, config.rms_norm_eps)
    return x + model.feed_forward(x, layer, config)


def decoder_layer__attention_lost(x, layer, config, table, mask):
    normed = model.rms_norm(x, layer.input_layernorm, config.rms_norm_eps)
    attended = x + model.self_attention(normed, layer, config, table, mask)
    normed = model.rms_norm(attended, layer.post_attention_layernorm, config.rms_norm_eps)
    return x + model.feed_forward(normed, layer, config)


def decoder_layer__side_by_side(x, layer, config, table, mask):
    one = model.rms_norm(x, layer.input_layernorm, config.rms_norm_eps)
    two = model.rms_norm(x, layer.post_attention_layernorm, config.rms_norm_eps)
    return x + model.self_attention(one, layer, config, table, mask) + model.feed_forward(two, layer, config)


def decoder_layer__first_norm_twice(x, layer, config, table, mask):
    for step in (lambda y: model.self_attention(y, layer, config, table, mask), None):
        normed = model.rms_norm(x, layer.input_layernorm, config.rms_norm_eps)
        x = x + (step(normed) if step else model.feed_forward(normed, layer, config))
    return x


def decoder_layer__eps_of_its_own(x, layer, config, table, mask):
    x = x + model.self_attention(model.rms_norm(x, layer.input_layernorm, 1e-6), layer, config, table, mask)
    return x + model.feed_forward(model.rms_norm(x, layer.post_attention_layernorm, 1e-6), layer, config)


def decoder_layer__adds_in_place(x, layer, config, table, mask):
    normed = model.rms_norm(x, layer.input_layernorm, config.rms_norm_eps)
    x += model.self_attention(normed, layer, config, table, mask)
    normed = model.rms_norm(x, layer.post_attention_layernorm, config.rms_norm_eps)
    return x + model.feed_forward(normed, layer, config)


def decoder_layer__modules_own(x, layer, config, table, mask):
    return model.decoder_layer(x, layer, config, table, mask)


# ---- forward ---------------------------------------------------------------------------------


def forward__no_last_norm(weights, token_ids, config, logits_to_keep=0):
    positions = torch.arange(token_ids.shape[1])[None]
    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, positions)
    for number, layer in enumerate(weights.layers):
        mask = model.attention_mask(positions, positions, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask)
    x = x[:, -logits_to_keep:]
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head)


def forward__no_window(weights, token_ids, config, logits_to_keep=0):
    positions = torch.arange(token_ids.shape[1])[None]
    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, positions)
    for layer in weights.layers:
        x = model.decoder_layer(x, layer, config, table, model.attention_mask(positions, positions))
    x = model.rms_norm(x[:, -logits_to_keep:], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head)


def forward__always_tied(weights, token_ids, config, logits_to_keep=0):
    positions = torch.arange(token_ids.shape[1])[None]
    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, positions)
    for number, layer in enumerate(weights.layers):
        mask = model.attention_mask(positions, positions, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask)
    x = model.rms_norm(x[:, -logits_to_keep:], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens)


def forward__never_tied(weights, token_ids, config, logits_to_keep=0):
    positions = torch.arange(token_ids.shape[1])[None]
    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, positions)
    for number, layer in enumerate(weights.layers):
        mask = model.attention_mask(positions, positions, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask)
    return model.rms_norm(x[:, -logits_to_keep:], weights.norm, config.rms_norm_eps) @ weights.lm_head.T


def forward__keeps_all(weights, token_ids, config, logits_to_keep=0):
    positions = torch.arange(token_ids.shape[1])[None]
    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, positions)
    for number, layer in enumerate(weights.layers):
        mask = model.attention_mask(positions, positions, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask)
    x = model.rms_norm(x, weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head)


def forward__two_layers_only(weights, token_ids, config, logits_to_keep=0):
    positions = torch.arange(token_ids.shape[1])[None]
    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, positions)
    for number in (0, 1):
        mask = model.attention_mask(positions, positions, config.window(number))
        x = model.decoder_layer(x, weights.layers[number], config, table, mask)
    x = model.rms_norm(x[:, -logits_to_keep:], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head)


def forward__modules_own(weights, token_ids, config, logits_to_keep=0):
    return model.forward(weights, token_ids, config, logits_to_keep=logits_to_keep)


# ---- perplexity ------------------------------------------------------------------------------


def perplexity__not_shifted(logits, token_ids, keep):
    return F.cross_entropy(logits[keep].float(), token_ids[keep]).exp()


def perplexity__shifted_back(logits, token_ids, keep):
    counted = keep[:, 1:] & keep[:, :-1]
    return F.cross_entropy(logits[:, 1:][counted].float(), token_ids[:, :-1][counted]).exp()


def perplexity__padding_counted(logits, token_ids, keep):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), token_ids[:, 1:].flatten()).exp()


def perplexity__predicted_by_padding(logits, token_ids, keep):
    return F.cross_entropy(logits[:, :-1][keep[:, 1:]].float(), token_ids[:, 1:][keep[:, 1:]]).exp()


def perplexity__mean_of_rows(logits, token_ids, keep):
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), token_ids[:, 1:], reduction="none")
    counted = (keep[:, :-1] & keep[:, 1:]).float()
    return ((losses * counted).sum(-1) / counted.sum(-1)).mean().exp()


def perplexity__no_exponential(logits, token_ids, keep):
    counted = keep[:, 1:] & keep[:, :-1]
    return F.cross_entropy(logits[:, :-1][counted].float(), token_ids[:, 1:][counted])


def perplexity__base_two(logits, token_ids, keep):
    counted = keep[:, 1:] & keep[:, :-1]
    return 2 ** F.cross_entropy(logits[:, :-1][counted].float(), token_ids[:, 1:][counted])


def perplexity__softmax_twice(logits, token_ids, keep):
    counted = keep[:, 1:] & keep[:, :-1]
    return F.cross_entropy(logits[:, :-1][counted].float().softmax(-1), token_ids[:, 1:][counted]).exp()


def perplexity__token_by_token(logits, token_ids, keep):
    found = []
    for row in range(len(token_ids)):
        for place in range(token_ids.shape[1] - 1):
            if keep[row, place] and keep[row, place + 1]:
                found.append(-logits[row, place].float().log_softmax(-1)[token_ids[row, place + 1]])
    return torch.stack(found).mean().exp()


# ---- row_positions ---------------------------------------------------------------------------


def row_positions__columns(keep, before):
    return (torch.arange(keep.shape[1]) + before[:, None]).masked_fill(~keep, 0)


def row_positions__from_zero(keep, before):
    return (keep.cumsum(-1) - 1).masked_fill(~keep, 0)


def row_positions__from_one(keep, before):
    return (keep.cumsum(-1) + before[:, None]).masked_fill(~keep, 0)


def row_positions__padding_not_zero(keep, before):
    return (keep.cumsum(-1) - 1).clamp(min=0) + before[:, None]


def row_positions__one_count_for_all(keep, before):
    return (keep.cumsum(-1) - 1 + before.max()).masked_fill(~keep, 0)


def row_positions__padding_on_the_left_only(keep, before):
    missing = (~keep).sum(-1, keepdim=True)
    return (torch.arange(keep.shape[1]) - missing + before[:, None]).masked_fill(~keep, 0)


def row_positions__token_by_token(keep, before):
    found = torch.zeros(keep.shape, dtype=torch.long)
    for row in range(len(keep)):
        count = int(before[row])
        for column in range(keep.shape[1]):
            if keep[row, column]:
                found[row, column] = count
                count += 1
    return found


FRAGMENTS = {
    **ps4_cache.FRAGMENTS,
    **ps4_forgetting.FRAGMENTS,
    decoder_layer__no_residual: "Both halves replace the stream",
    decoder_layer__norm_after_adding: "norm the stream after adding",
    decoder_layer__adds_to_the_copy: "You add to the normed copy",
    decoder_layer__attention_lost: "what attention gathered is lost",
    decoder_layer__side_by_side: "the stream from before attention",
    decoder_layer__first_norm_twice: "Both halves have the first norm",
    decoder_layer__eps_of_its_own: "take `config.rms_norm_eps`",
    decoder_layer__adds_in_place: "x was changed in place",
    decoder_layer__modules_own: "this calls `decoder_layer`, which is the answer itself",
    forward__no_last_norm: "The last norm is missing",
    forward__no_window: "a sliding window see too far",
    forward__always_tied: "tied only where `weights.lm_head` is None",
    forward__never_tied: "your function raised AttributeError",
    forward__keeps_all: "keep the last `logits_to_keep`",
    forward__two_layers_only: "numbers differ",
    forward__modules_own: "this calls `forward`, which is the answer itself",
    perplexity__not_shifted: "shift by one",
    perplexity__shifted_back: "You shift the wrong way",
    perplexity__padding_counted: "Padding is counted",
    perplexity__predicted_by_padding: "made at a padding token is counted",
    perplexity__mean_of_rows: "You average the rows' means",
    perplexity__no_exponential: "perplexity is its exponential",
    perplexity__base_two: "the base is e, not 2",
    perplexity__softmax_twice: "it applies a softmax again",
    perplexity__token_by_token: "times slower than it could be",
    row_positions__columns: "You count columns",
    row_positions__from_zero: "go on counting from `before`",
    row_positions__from_one: "You count from 1",
    row_positions__padding_not_zero: "it gets 0, everywhere",
    row_positions__one_count_for_all: "All rows go on from the longest",
    row_positions__padding_on_the_left_only: "padded on the right",
    row_positions__token_by_token: "times slower than it could be",
}
