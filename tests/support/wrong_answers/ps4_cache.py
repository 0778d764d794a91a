"""Wrong answers to ps4_forward_and_cache, second part, and what has to be said of each: see ps4."""

from functools import partial

import torch
import torch.nn.functional as F

from qwen3_scratch import model

# ---- cached_step -----------------------------------------------------------------------------


def cached_step__positions_from_zero(weights, token_ids, config, held):
    n, new, kept = held[0][0].shape[2], torch.arange(token_ids.shape[1])[None], []
    keys = torch.arange(n + token_ids.shape[1])[None]

    def remember(number, k, v):
        kept.append(tuple(torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True)))
        return kept[-1]

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, new)
    for number, layer in enumerate(weights.layers):
        mask = model.attention_mask(keys[:, n:], keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


def cached_step__new_tokens_see_ahead(weights, token_ids, config, held):
    n, kept = held[0][0].shape[2], []
    keys = torch.arange(n + token_ids.shape[1])[None]

    def remember(number, k, v):
        kept.append(tuple(torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True)))
        return kept[-1]

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, keys[:, n:])
    mask = torch.ones(1, 1, token_ids.shape[1], keys.shape[1], dtype=torch.bool)
    for number, layer in enumerate(weights.layers):
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


def cached_step__mask_of_new_keys(weights, token_ids, config, held):
    n, kept = held[0][0].shape[2], []
    new = torch.arange(n, n + token_ids.shape[1])[None]

    def remember(number, k, v):
        kept.append(tuple(torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True)))
        return kept[-1]

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, new)
    for number, layer in enumerate(weights.layers):
        mask = model.attention_mask(new, new, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


def cached_step__new_before_old(weights, token_ids, config, held):
    n, kept = held[0][0].shape[2], []
    keys = torch.arange(n + token_ids.shape[1])[None]

    def remember(number, k, v):
        kept.append((torch.cat((k, held[number][0]), dim=2), torch.cat((v, held[number][1]), dim=2)))
        return kept[-1]

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, keys[:, n:])
    for number, layer in enumerate(weights.layers):
        mask = model.attention_mask(keys[:, n:], keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


def cached_step__writes_into_held(weights, token_ids, config, held):
    n = held[0][0].shape[2]
    keys = torch.arange(n + token_ids.shape[1])[None]

    def remember(number, k, v):
        held[number] = tuple(torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True))
        return held[number]

    x, table = model.embed(token_ids, weights.embed_tokens), model.rope_table(config, keys[:, n:])
    for number, layer in enumerate(weights.layers):
        mask = model.attention_mask(keys[:, n:], keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), held


def cached_step__one_new_token_only(weights, token_ids, config, held):
    n, kept = held[0][0].shape[2], []
    keys = torch.arange(n + 1)[None]

    def remember(number, k, v):
        kept.append(tuple(torch.cat(pair, dim=2) for pair in zip(held[number], (k, v), strict=True)))
        return kept[-1]

    x, table = model.embed(token_ids[:, -1:], weights.embed_tokens), model.rope_table(config, keys[:, n:])
    for number, layer in enumerate(weights.layers):
        mask = model.attention_mask(keys[:, n:], keys, config.window(number))
        x = model.decoder_layer(x, layer, config, table, mask, partial(remember, number))
    x = model.rms_norm(x[:, -1], weights.norm, config.rms_norm_eps)
    return F.linear(x, weights.embed_tokens if weights.lm_head is None else weights.lm_head), kept


# ---- kv_cache_bytes --------------------------------------------------------------------------


def kv_cache_bytes__keys_alone(config, batch, length, dtype):
    tokens = sum(min(length, config.window(i) or length) for i in range(config.num_hidden_layers))
    return tokens * batch * config.num_key_value_heads * config.head_dim * dtype.itemsize


def kv_cache_bytes__query_heads(config, batch, length, dtype):
    tokens = sum(min(length, config.window(i) or length) for i in range(config.num_hidden_layers))
    return 2 * tokens * batch * config.num_attention_heads * config.head_dim * dtype.itemsize


def kv_cache_bytes__windows_ignored(config, batch, length, dtype):
    row = config.num_hidden_layers * config.num_key_value_heads * length * config.head_dim
    return 2 * batch * row * dtype.itemsize


def kv_cache_bytes__two_bytes_always(config, batch, length, dtype):
    tokens = sum(min(length, config.window(i) or length) for i in range(config.num_hidden_layers))
    return 2 * tokens * batch * config.num_key_value_heads * config.head_dim * 2


def kv_cache_bytes__numbers(config, batch, length, dtype):
    tokens = sum(min(length, config.window(i) or length) for i in range(config.num_hidden_layers))
    return 2 * tokens * batch * config.num_key_value_heads * config.head_dim


def kv_cache_bytes__a_float(config, batch, length, dtype):
    tokens = sum(min(length, config.window(i) or length) for i in range(config.num_hidden_layers))
    return 2.0 * tokens * batch * config.num_key_value_heads * config.head_dim * dtype.itemsize


# ---- greedy ----------------------------------------------------------------------------------


def greedy__reads_all_again(read, prompt, stop_ids, vocabulary, most):
    written = []
    while len(written) < most and not stop_ids & set(written):
        written.append(int(read(prompt + written)[:vocabulary].argmax()))
    return written


def greedy__all_rows(read, prompt, stop_ids, vocabulary, most):
    written, new = [], prompt
    while len(written) < most and not stop_ids & set(written):
        written.append(int(read(new).argmax()))
        new = written[-1:]
    return written


def greedy__without_the_stop_token(read, prompt, stop_ids, vocabulary, most):
    written, new = [], prompt
    while len(written) < most:
        token = int(read(new)[:vocabulary].argmax())
        if token in stop_ids:
            break
        written.append(token)
        new = [token]
    return written


def greedy__never_stops(read, prompt, stop_ids, vocabulary, most):
    written, new = [], prompt
    for _ in range(most):
        written.append(int(read(new)[:vocabulary].argmax()))
        new = written[-1:]
    return written


def greedy__one_too_many(read, prompt, stop_ids, vocabulary, most):
    written, new = [], prompt
    while len(written) <= most and not stop_ids & set(written):
        written.append(int(read(new)[:vocabulary].argmax()))
        new = written[-1:]
    return written


def greedy__with_the_prompt(read, prompt, stop_ids, vocabulary, most):
    written, new = [], prompt
    while len(written) < most and not stop_ids & set(written):
        written.append(int(read(new)[:vocabulary].argmax()))
        new = written[-1:]
    return prompt + written


def greedy__stopped_by_the_prompt(read, prompt, stop_ids, vocabulary, most):
    text, new = list(prompt), prompt
    while len(text) < len(prompt) + most and not stop_ids & set(text):
        text.append(int(read(new)[:vocabulary].argmax()))
        new = text[-1:]
    return text[len(prompt) :]


# ---- reuse -----------------------------------------------------------------------------------


def reuse__nothing_left_to_read(held_ids, held, prompt):
    same = 0
    while same < min(len(held_ids), len(prompt)) and held_ids[same] == prompt[same]:
        same += 1
    return prompt[same:], [(k[:, :, :same], v[:, :, :same]) for k, v in held]


def reuse__equal_anywhere(held_ids, held, prompt):
    same = min(sum(a == b for a, b in zip(held_ids, prompt, strict=False)), len(prompt) - 1)
    return prompt[same:], [(k[:, :, :same], v[:, :, :same]) for k, v in held]


def reuse__all_again(held_ids, held, prompt):
    return list(prompt), [(k[:, :, :0], v[:, :, :0]) for k, v in held]


def reuse__held_whole(held_ids, held, prompt):
    same = 0
    while same < min(len(held_ids), len(prompt) - 1) and held_ids[same] == prompt[same]:
        same += 1
    return prompt[same:], list(held)


def reuse__cut_from_behind(held_ids, held, prompt):
    same = 0
    while same < min(len(held_ids), len(prompt) - 1) and held_ids[same] == prompt[same]:
        same += 1
    drop = len(held_ids) - same
    return prompt[same:], [(k[:, :, :-drop], v[:, :, :-drop]) for k, v in held]


def reuse__heads_cut(held_ids, held, prompt):
    same = 0
    while same < min(len(held_ids), len(prompt) - 1) and held_ids[same] == prompt[same]:
        same += 1
    return prompt[same:], [(k[:, :same], v[:, :same]) for k, v in held]


def reuse__always_one_less(held_ids, held, prompt):
    same = 0
    while same < min(len(held_ids), len(prompt)) and held_ids[same] == prompt[same]:
        same += 1
    same = max(same - 1, 0)
    return prompt[same:], [(k[:, :, :same], v[:, :, :same]) for k, v in held]


def reuse__prompt_emptied(held_ids, held, prompt):
    same = 0
    while len(prompt) > 1 and same < len(held_ids) and held_ids[same] == prompt[0]:
        prompt.pop(0)
        same += 1
    return prompt, [(k[:, :, :same], v[:, :, :same]) for k, v in held]


FRAGMENTS = {
    cached_step__positions_from_zero: "The new tokens count from 0 again",
    cached_step__new_tokens_see_ahead: "those that come after them",
    cached_step__mask_of_new_keys: "a column for each new key alone",
    cached_step__new_before_old: "You put the new keys before the held ones",
    cached_step__writes_into_held: "held was changed in place",
    cached_step__one_new_token_only: "numbers differ",
    kv_cache_bytes__keys_alone: "both are kept",
    kv_cache_bytes__query_heads: "You count the query heads",
    kv_cache_bytes__windows_ignored: "keeps no more than its window",
    kv_cache_bytes__two_bytes_always: "You take two bytes for every type",
    kv_cache_bytes__numbers: "These are numbers, not bytes",
    kv_cache_bytes__a_float: "found a float, expected an int",
    greedy__reads_all_again: "You read the whole text again",
    greedy__all_rows: "You choose among all rows",
    greedy__without_the_stop_token: "The stop token is missing",
    greedy__never_stops: "You write on after a stop token",
    greedy__one_too_many: "one token more than `most`",
    greedy__with_the_prompt: "You return the prompt too",
    greedy__stopped_by_the_prompt: "A stop id in the prompt ends nothing",
    reuse__nothing_left_to_read: "Nothing is left to read",
    reuse__equal_anywhere: "You count equal tokens anywhere",
    reuse__all_again: "You read all of the prompt again",
    reuse__held_whole: "have to go, too",
    reuse__cut_from_behind: "cut from the front",
    reuse__heads_cut: "Tokens lie along dimension 2",
    reuse__always_one_less: "You keep one token too few",
    reuse__prompt_emptied: "was changed in place",
}
