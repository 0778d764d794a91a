"""Wrong answers to ps4_forward_and_cache, the cache that forgets, and what has to be said of each: see ps4."""

from functools import partial

import torch
import torch.nn.functional as F

from qwen3_scratch import model


def forgetting_step__all_kept(weights, token_ids, config, held, before):
    new, kept = torch.arange(before, before + token_ids.shape[1])[None], []

    def remember(number, k, v):
        k, v = (torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True))
        kept.append((k, v))
        return k, v

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, new)
    for number, layer in enumerate(weights.layers):
        keys = torch.arange(before - held[number][0].shape[2], before + token_ids.shape[1])[None]
        mask = model.attention_mask(new, keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


def forgetting_step__the_whole_window(weights, token_ids, config, held, before):
    new, kept = torch.arange(before, before + token_ids.shape[1])[None], []

    def remember(number, k, v):
        k, v = (torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True))
        window = config.window(number)
        first = 0 if window is None else max(0, k.shape[2] - window)
        kept.append((k[:, :, first:], v[:, :, first:]))
        return k, v

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, new)
    for number, layer in enumerate(weights.layers):
        keys = torch.arange(before - held[number][0].shape[2], before + token_ids.shape[1])[None]
        mask = model.attention_mask(new, keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


def forgetting_step__one_too_few(weights, token_ids, config, held, before):
    new, kept = torch.arange(before, before + token_ids.shape[1])[None], []

    def remember(number, k, v):
        k, v = (torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True))
        window = config.window(number)
        first = 0 if window is None else max(0, k.shape[2] - window + 2)
        kept.append((k[:, :, first:], v[:, :, first:]))
        return k, v

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, new)
    for number, layer in enumerate(weights.layers):
        keys = torch.arange(before - held[number][0].shape[2], before + token_ids.shape[1])[None]
        mask = model.attention_mask(new, keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


def forgetting_step__cut_from_behind(weights, token_ids, config, held, before):
    new, kept = torch.arange(before, before + token_ids.shape[1])[None], []

    def remember(number, k, v):
        k, v = (torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True))
        window = config.window(number)
        first = 0 if window is None else 1 - window
        kept.append((k[:, :, first:], v[:, :, first:]))
        return k, v

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, new)
    for number, layer in enumerate(weights.layers):
        keys = torch.arange(before - held[number][0].shape[2], before + token_ids.shape[1])[None]
        mask = model.attention_mask(new, keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


def forgetting_step__forgets_before_it_looks(weights, token_ids, config, held, before):
    new, kept = torch.arange(before, before + token_ids.shape[1])[None], []

    def remember(number, k, v):
        k, v = (torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True))
        window = config.window(number)
        first = 0 if window is None else max(0, k.shape[2] - window + 1)
        kept.append((k[:, :, first:], v[:, :, first:]))
        return kept[-1]

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, new)
    for number, layer in enumerate(weights.layers):
        keys = torch.arange(before - held[number][0].shape[2], before + token_ids.shape[1])[None]
        if config.window(number) is not None:
            keys = keys[:, max(0, keys.shape[1] - config.window(number) + 1) :]
        mask = model.attention_mask(new, keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


def forgetting_step__in_every_layer(weights, token_ids, config, held, before):
    new, kept = torch.arange(before, before + token_ids.shape[1])[None], []

    def remember(number, k, v):
        k, v = (torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True))
        window = config.sliding_window
        first = max(0, k.shape[2] - window + 1)
        kept.append((k[:, :, first:], v[:, :, first:]))
        return k, v

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, new)
    for number, layer in enumerate(weights.layers):
        keys = torch.arange(before - held[number][0].shape[2], before + token_ids.shape[1])[None]
        mask = model.attention_mask(new, keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


def forgetting_step__columns_from_zero(weights, token_ids, config, held, before):
    new, kept = torch.arange(before, before + token_ids.shape[1])[None], []

    def remember(number, k, v):
        k, v = (torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True))
        window = config.window(number)
        first = 0 if window is None else max(0, k.shape[2] - window + 1)
        kept.append((k[:, :, first:], v[:, :, first:]))
        return k, v

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, new)
    for number, layer in enumerate(weights.layers):
        keys = torch.arange(held[number][0].shape[2] + token_ids.shape[1])[None]
        mask = model.attention_mask(new, keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


def forgetting_step__positions_from_what_is_held(weights, token_ids, config, held, before):
    new, kept = torch.arange(token_ids.shape[1])[None] + held[0][0].shape[2], []

    def remember(number, k, v):
        k, v = (torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True))
        window = config.window(number)
        first = 0 if window is None else max(0, k.shape[2] - window + 1)
        kept.append((k[:, :, first:], v[:, :, first:]))
        return k, v

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, new)
    for number, layer in enumerate(weights.layers):
        keys = torch.arange(held[number][0].shape[2] + token_ids.shape[1])[None]
        mask = model.attention_mask(new, keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


def forgetting_step__no_window_in_the_mask(weights, token_ids, config, held, before):
    new, kept = torch.arange(before, before + token_ids.shape[1])[None], []

    def remember(number, k, v):
        k, v = (torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True))
        window = config.window(number)
        first = 0 if window is None else max(0, k.shape[2] - window + 1)
        kept.append((k[:, :, first:], v[:, :, first:]))
        return k, v

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, new)
    for number, layer in enumerate(weights.layers):
        keys = torch.arange(before - held[number][0].shape[2], before + token_ids.shape[1])[None]
        mask = model.attention_mask(new, keys, None)
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


FRAGMENTS = {
    forgetting_step__all_kept: "hold tokens that no later one can see",
    forgetting_step__the_whole_window: "You keep one token too many",
    forgetting_step__one_too_few: "You keep one token too few",
    forgetting_step__cut_from_behind: "With a window of 1 nothing is kept",
    forgetting_step__forgets_before_it_looks: "You forget too early",
    forgetting_step__in_every_layer: "You forget in layers without a window",
    forgetting_step__columns_from_zero: "is not that of token 0",
    forgetting_step__positions_from_what_is_held: "it has forgotten some: take `before`",
    forgetting_step__no_window_in_the_mask: "the mask needs the window",
}
