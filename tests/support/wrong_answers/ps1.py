"""Wrong answers to ps1_norm_and_rope, and what has to be said of each."""

import math
from collections import Counter
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int  # noqa: F401 (what the notebook gives)
from torch import Tensor  # noqa: F401

# ---- rms_norm --------------------------------------------------------------------------------


def rms_norm__sum_instead_of_mean(x, weight, eps):
    wide = x.float()
    return weight * (wide / torch.sqrt((wide * wide).sum(-1, keepdim=True) + eps)).to(x.dtype)


def rms_norm__mean_over_everything(x, weight, eps):
    wide = x.float()
    return weight * (wide / torch.sqrt((wide * wide).mean() + eps)).to(x.dtype)


def rms_norm__eps_outside_the_root(x, weight, eps):
    wide = x.float()
    return weight * (wide / (torch.sqrt((wide * wide).mean(-1, keepdim=True)) + eps)).to(x.dtype)


def rms_norm__subtracts_the_mean(x, weight, eps):
    wide = x.float()
    wide = wide - wide.mean(-1, keepdim=True)
    return weight * (wide / torch.sqrt((wide * wide).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rms_norm__in_the_type_of_x(x, weight, eps):
    return weight * (x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps))


def rms_norm__weight_before_the_cast(x, weight, eps):
    wide = x.float()
    return (weight.float() * wide / torch.sqrt((wide * wide).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rms_norm__overwrites_x(x, weight, eps):
    if x.dtype == torch.float32:
        x /= torch.sqrt((x * x).mean(-1, keepdim=True) + eps)
        return weight * x
    wide = x.float()
    return weight * (wide / torch.sqrt((wide * wide).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rms_norm__token_by_token(x, weight, eps):
    rows = []
    for row in x.float().reshape(-1, x.shape[-1]):
        rows.append(row / torch.sqrt((row * row).mean() + eps))
    return weight * torch.stack(rows).reshape(x.shape).to(x.dtype)


# ---- inverse_frequencies ---------------------------------------------------------------------


def inverse_frequencies__half_the_exponent(head_dim, theta):
    return 1.0 / theta ** (torch.arange(head_dim // 2).float() / head_dim)


def inverse_frequencies__one_for_each_number(head_dim, theta):
    return 1.0 / theta ** (torch.arange(head_dim).float() / head_dim)


def inverse_frequencies__growing(head_dim, theta):
    return theta ** (torch.arange(0, head_dim, 2).float() / head_dim)


def inverse_frequencies__theta_of_one_checkpoint(head_dim, theta):
    return 1.0 / 10000.0 ** (torch.arange(0, head_dim, 2).float() / head_dim)


def inverse_frequencies__a_list(head_dim, theta):
    return [theta ** (-i / head_dim) for i in range(0, head_dim, 2)]


def inverse_frequencies__whole_numbers(head_dim, theta):
    return 1.0 / theta ** (torch.arange(0, head_dim, 2) // head_dim)


# ---- rope_table ------------------------------------------------------------------------------


def rope_table__neighbours(positions, frequencies):
    angles = (positions[..., None] * frequencies).repeat_interleave(2, dim=-1)
    return angles.cos(), angles.sin()


def rope_table__each_angle_once(positions, frequencies):
    angles = positions[..., None] * frequencies
    return angles.cos(), angles.sin()


def rope_table__counts_by_itself(positions, frequencies):
    angles = torch.arange(positions.shape[1])[None, :, None] * frequencies
    angles = torch.cat((angles, angles), dim=-1).expand(positions.shape[0], -1, -1)
    return angles.cos(), angles.sin()


def rope_table__sine_first(positions, frequencies):
    angles = positions[..., None] * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.sin(), angles.cos()


def rope_table__token_by_token(positions, frequencies):
    rows = []
    for position in positions.flatten().tolist():
        angles = position * frequencies
        rows.append(torch.cat((angles, angles)))
    angles = torch.stack(rows).reshape(*positions.shape, -1)
    return angles.cos(), angles.sin()


# ---- rope ------------------------------------------------------------------------------------


def rope__neighbours(x, cos, sin):
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    return x * cos[:, None].to(x.dtype) + turned * sin[:, None].to(x.dtype)


def rope__the_other_way(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos[:, None].to(x.dtype) + torch.cat((b, -a), dim=-1) * sin[:, None].to(x.dtype)


def rope__no_sign(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos[:, None].to(x.dtype) + torch.cat((b, a), dim=-1) * sin[:, None].to(x.dtype)


def rope__angle_by_head(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos[:, :, None].to(x.dtype), sin[:, :, None].to(x.dtype)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


def rope__fp32_comes_out(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat((-b, a), dim=-1) * sin[:, None]


def rope__modules_own(x, cos, sin):
    from qwen3_scratch import rope as theirs

    return theirs(x, cos, sin)


def rope__head_by_head(x, cos, sin):
    half, out = x.shape[-1] // 2, torch.empty_like(x)
    for row in range(x.shape[0]):
        for head in range(x.shape[1]):
            for token in range(x.shape[2]):
                a, b = x[row, head, token, :half], x[row, head, token, half:]
                c = cos[row % len(cos), token, :half].to(x.dtype)
                s = sin[row % len(sin), token, :half].to(x.dtype)
                out[row, head, token, :half] = a * c - b * s
                out[row, head, token, half:] = b * c + a * s
    return out


# ---- keys_at_distance ------------------------------------------------------------------------


def keys_at_distance__ahead(q, distances, frequencies):
    (a, b), angle = q.chunk(2, dim=-1), distances[:, None] * frequencies
    return torch.cat((a * angle.cos() + b * angle.sin(), b * angle.cos() - a * angle.sin()), dim=-1)


def keys_at_distance__the_query_itself(q, distances, frequencies):
    return q.clone()


def keys_at_distance__one_distance(q, distances, frequencies):
    (a, b), angle = q.chunk(2, dim=-1), distances[0] * frequencies
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=-1)


def keys_at_distance__of_length_one(q, distances, frequencies):
    (a, b), angle = q.chunk(2, dim=-1), distances[:, None] * frequencies
    turned = torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=-1)
    return turned / turned.norm(dim=-1, keepdim=True)


def keys_at_distance__neighbours(q, distances, frequencies):
    a, b, angle = q[:, ::2], q[:, 1::2], distances[:, None] * frequencies
    return torch.stack((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=-1).flatten(1)


# ---- to_halves -------------------------------------------------------------------------------


def to_halves__the_way_back(weight, heads):
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def to_halves__as_one_head(weight, heads):
    return torch.cat((weight[::2], weight[1::2]))


def to_halves__columns(weight, heads):
    return torch.cat((weight[:, ::2], weight[:, 1::2]), dim=1)


def to_halves__two_heads_only(weight, heads):
    half = weight.shape[0] // 2
    first, second = weight[:half], weight[half:]
    return torch.cat((first[::2], first[1::2], second[::2], second[1::2]))


def to_halves__nothing(weight, heads):
    return weight


# ---- yarn_frequencies ------------------------------------------------------------------------


def yarn_frequencies__all_slowed(head_dim, theta, factor, trained):
    return 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim) / factor


def yarn_frequencies__fast_ones_slowed(head_dim, theta, factor, trained):
    first, last = (head_dim * math.log(trained / (2 * math.pi * turns)) / (2 * math.log(theta)) for turns in (32, 1))
    first, last = max(math.floor(first), 0), min(math.ceil(last), head_dim - 1)
    pairs = torch.arange(head_dim // 2).float()
    keep = ((pairs - first) / (last - first)).clamp(0, 1)
    speeds = 1.0 / theta ** (2 * pairs / head_dim)
    return speeds * keep + speeds / factor * (1 - keep)


def yarn_frequencies__not_rounded(head_dim, theta, factor, trained):
    first, last = (head_dim * math.log(trained / (2 * math.pi * turns)) / (2 * math.log(theta)) for turns in (32, 1))
    first, last = max(first, 0), min(last, head_dim - 1)
    pairs = torch.arange(head_dim // 2).float()
    keep = 1 - ((pairs - first) / (last - first)).clamp(0, 1)
    speeds = 1.0 / theta ** (2 * pairs / head_dim)
    return speeds * keep + speeds / factor * (1 - keep)


def yarn_frequencies__begin_below_zero(head_dim, theta, factor, trained):
    first, last = (head_dim * math.log(trained / (2 * math.pi * turns)) / (2 * math.log(theta)) for turns in (32, 1))
    first, last = math.floor(first), math.ceil(last)
    pairs = torch.arange(head_dim // 2).float()
    keep = 1 - ((pairs - first) / (last - first)).clamp(0, 1)
    speeds = 1.0 / theta ** (2 * pairs / head_dim)
    return speeds * keep + speeds / factor * (1 - keep)


def yarn_frequencies__multiplied(head_dim, theta, factor, trained):
    first, last = (head_dim * math.log(trained / (2 * math.pi * turns)) / (2 * math.log(theta)) for turns in (32, 1))
    first, last = max(math.floor(first), 0), min(math.ceil(last), head_dim - 1)
    pairs = torch.arange(head_dim // 2).float()
    keep = 1 - ((pairs - first) / (last - first)).clamp(0, 1)
    speeds = 1.0 / theta ** (2 * pairs / head_dim)
    return speeds * keep + speeds * factor * (1 - keep)


# ---- learn_merges ----------------------------------------------------------------------------


def learn_merges__each_word_once(words, count):
    pieces, merges = {word: list(word) for word in words}, []
    while len(merges) < count:
        found = Counter(pair for split in pieces.values() for pair in pairwise(split))
        if not found:
            break
        best = min(found, key=lambda pair: (-found[pair], pair))
        merges.append(best)
        for split in pieces.values():
            at = 0
            while at < len(split) - 1:
                if (split[at], split[at + 1]) == best:
                    split[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def learn_merges__counted_once(words, count):
    found = Counter()
    for word, times in words.items():
        for pair in pairwise(word):
            found[pair] += times
    return sorted(found, key=lambda pair: (-found[pair], pair))[:count]


def learn_merges__joined_once_in_a_word(words, count):
    pieces, merges = {word: list(word) for word in words}, []
    while len(merges) < count:
        found = Counter()
        for word, split in pieces.items():
            for pair in pairwise(split):
                found[pair] += words[word]
        if not found:
            break
        best = min(found, key=lambda pair: (-found[pair], pair))
        merges.append(best)
        for split in pieces.values():
            if best in [*pairwise(split)]:
                at = [*pairwise(split)].index(best)
                split[at : at + 2] = ["".join(best)]
    return merges


def learn_merges__the_first_met(words, count):
    pieces, merges = {word: list(word) for word in words}, []
    while len(merges) < count:
        found = Counter()
        for word, split in pieces.items():
            for pair in pairwise(split):
                found[pair] += words[word]
        if not found:
            break
        best = max(found, key=found.get)
        merges.append(best)
        for split in pieces.values():
            at = 0
            while at < len(split) - 1:
                if (split[at], split[at + 1]) == best:
                    split[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def learn_merges__no_end(words, count):
    pieces, merges = {word: list(word) for word in words}, []
    for _ in range(count):
        found = Counter()
        for word, split in pieces.items():
            for pair in pairwise(split):
                found[pair] += words[word]
        best = min(found, key=lambda pair: (-found[pair], pair))
        merges.append(best)
        for split in pieces.values():
            at = 0
            while at < len(split) - 1:
                if (split[at], split[at + 1]) == best:
                    split[at : at + 2] = ["".join(best)]
                at += 1
    return merges


# ---- cosines ---------------------------------------------------------------------------------


def cosines__products(table, token):
    return table.float() @ table[token].float()


def cosines__one_length(table, token):
    return F.normalize(table.float(), dim=-1) @ table[token].float()


def cosines__nan_for_zeros(table, token):
    rows = table.float() / table.float().norm(dim=-1, keepdim=True)
    return rows @ rows[token]


def cosines__columns(table, token):
    directions = F.normalize(table.float(), dim=0)
    return directions @ directions[token]


def cosines__in_bf16(table, token):
    directions = F.normalize(table, dim=-1)
    return directions @ directions[token]


def cosines__row_by_row(table, token):
    return torch.stack([F.cosine_similarity(row, table[token].float(), dim=0) for row in table.float()])


# ---- position_of -----------------------------------------------------------------------------


def position_of__fastest_pair(x, y, frequencies, longest):
    (a, b), (c, e) = x.float().chunk(2, -1), y.float().chunk(2, -1)
    fast = frequencies.argmax()
    angle = torch.atan2((a * e - b * c)[:, fast], (a * c + b * e)[:, fast]) % (2 * math.pi)
    return (angle / frequencies[fast]).round().long()


def position_of__slowest_pair(x, y, frequencies, longest):
    (a, b), (c, e) = x.float().chunk(2, -1), y.float().chunk(2, -1)
    slow = frequencies.argmin()
    angle = torch.atan2((a * e - b * c)[:, slow], (a * c + b * e)[:, slow]) % (2 * math.pi)
    return (angle / frequencies[slow]).round().long()


def position_of__mean_of_all_hands(x, y, frequencies, longest):
    (a, b), (c, e) = x.float().chunk(2, -1), y.float().chunk(2, -1)
    angles = torch.atan2(a * e - b * c, a * c + b * e) % (2 * math.pi)
    return (angles / frequencies).mean(-1).round().long()


def position_of__turned_back(x, y, frequencies, longest):
    (a, b), (c, e) = x.float().chunk(2, -1), y.float().chunk(2, -1)
    angles = torch.arange(longest)[:, None] * frequencies
    return ((a * c + b * e) @ angles.cos().T - (a * e - b * c) @ angles.sin().T).argmax(-1)


def position_of__of_neighbours(x, y, frequencies, longest):
    (a, b), (c, e) = ((part[:, ::2].float(), part[:, 1::2].float()) for part in (x, y))
    angles = torch.arange(longest)[:, None] * frequencies
    return ((a * c + b * e) @ angles.cos().T + (a * e - b * c) @ angles.sin().T).argmax(-1)


def position_of__from_one(x, y, frequencies, longest):
    (a, b), (c, e) = x.float().chunk(2, -1), y.float().chunk(2, -1)
    angles = torch.arange(longest)[:, None] * frequencies
    return ((a * c + b * e) @ angles.cos().T + (a * e - b * c) @ angles.sin().T).argmax(-1) + 1


def position_of__without_the_last(x, y, frequencies, longest):
    (a, b), (c, e) = x.float().chunk(2, -1), y.float().chunk(2, -1)
    angles = torch.arange(max(longest - 1, 1))[:, None] * frequencies
    return ((a * c + b * e) @ angles.cos().T + (a * e - b * c) @ angles.sin().T).argmax(-1)


def position_of__in_a_loop(x, y, frequencies, longest):
    (a, b), (c, e) = x.float().chunk(2, -1), y.float().chunk(2, -1)
    best, where = torch.full((len(x),), -torch.inf), torch.zeros(len(x), dtype=torch.long)
    for position in range(longest):
        angle = position * frequencies
        fit = ((a * c + b * e) * angle.cos() + (a * e - b * c) * angle.sin()).sum(-1)
        where = torch.where(fit > best, position, where)
        best = torch.maximum(fit, best)
    return where


FRAGMENTS = {
    cosines__products: "These are the products alone",
    cosines__one_length: "You divide by one length only",
    cosines__nan_for_zeros: "a row of zeros",
    cosines__columns: "You norm the columns",
    cosines__in_bf16: "Compute in fp32",
    cosines__row_by_row: "times slower than it could be",
    rms_norm__sum_instead_of_mean: "root of the sum of squares",
    rms_norm__mean_over_everything: "one mean over the whole tensor",
    rms_norm__eps_outside_the_root: "Is your eps inside the root?",
    rms_norm__subtracts_the_mean: "as LayerNorm does",
    rms_norm__in_the_type_of_x: "Divide in fp32",
    rms_norm__weight_before_the_cast: "the model casts first",
    rms_norm__overwrites_x: "x was changed in place",
    rms_norm__token_by_token: "times slower than it could be",
    inverse_frequencies__half_the_exponent: "yours is i/head_dim",
    inverse_frequencies__one_for_each_number: "one speed for each pair",
    inverse_frequencies__growing: "The exponent is negative",
    inverse_frequencies__theta_of_one_checkpoint: "you use 10000",
    inverse_frequencies__a_list: "found a list of",
    inverse_frequencies__whole_numbers: "numbers differ",
    rope_table__neighbours: "pairs are halves",
    rope_table__each_angle_once: "Each angle is needed twice",
    rope_table__counts_by_itself: "need not begin at 0",
    rope_table__sine_first: "cos comes first",
    rope_table__token_by_token: "times slower than it could be",
    rope__neighbours: "this model pairs i with i + head_dim/2",
    rope__the_other_way: "You turn the other way",
    rope__no_sign: "A sign is missing",
    rope__angle_by_head: "the angle goes with the token",
    rope__fp32_comes_out: "bring cos and sin to the type of x",
    rope__modules_own: "this calls `rope`, which is the answer itself",
    rope__head_by_head: "times slower than it could be",
    keys_at_distance__ahead: "Your heads look ahead",
    keys_at_distance__the_query_itself: "the distance is missing",
    keys_at_distance__one_distance: "each has a distance of its own",
    keys_at_distance__of_length_one: "not as long as their queries",
    keys_at_distance__neighbours: "Pairs are halves here",
    to_halves__the_way_back: "from halves to neighbours",
    to_halves__as_one_head: "each head keeps its own",
    to_halves__columns: "you reorder its columns",
    to_halves__two_heads_only: "numbers differ",
    to_halves__nothing: "everything where it was",
    yarn_frequencies__all_slowed: "that is linear scaling",
    yarn_frequencies__fast_ones_slowed: "it is the other way round",
    yarn_frequencies__not_rounded: "round its begin down",
    yarn_frequencies__begin_below_zero: "numbers differ",
    yarn_frequencies__multiplied: "so divide",
    learn_merges__each_word_once: "You count each word once",
    learn_merges__counted_once: "after each one all is counted again",
    learn_merges__joined_once_in_a_word: "joined wherever it stands",
    learn_merges__the_first_met: "take the first in the alphabet",
    learn_merges__no_end: "your function raised ValueError",
    position_of__fastest_pair: "You read the fastest pair alone",
    position_of__slowest_pair: "You read the slowest pair alone",
    position_of__mean_of_all_hands: "A mean over pairs does not help",
    position_of__turned_back: "You turn the wrong way",
    position_of__of_neighbours: "Pairs are halves here",
    position_of__from_one: "Positions begin at 0",
    position_of__without_the_last: "You leave out the last position",
    position_of__in_a_loop: "the angles of all positions are one product",
}
