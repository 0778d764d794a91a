"""What the measures of attention heads say is true, on heads made to do one thing and on the embedded checkpoint."""

from itertools import combinations

import torch
from helpers import unchecked
from looking_up import seekers_of
from reference import assert_near

from qwen3_scratch import forward
from qwen3_scratch.inside.heads import (
    by_text,
    continuing,
    copying,
    even_weights,
    gathered_on,
    given_by_place,
    lending,
    looked,
    margins,
    mean_gathered,
    normed_terms,
    patched,
    previous_token,
    shuffled_rows,
    with_means,
    without,
)
from qwen3_scratch.model import Ops, gqa_attention, rms_norm, self_attention
from qwen3_scratch.tiny.corpus.copying import WORDS
from qwen3_scratch.tracing import head_weights, trace


def looking(offset, seq=8):
    """Weights of one head in which each token looks `offset` back, or at the first token where that is outside."""
    targets = (torch.arange(seq) - offset).clamp(min=0)
    return torch.nn.functional.one_hot(targets, seq).float()[None, None, None]


def test_each_score_is_one_for_a_head_that_does_nothing_else():
    assert previous_token(looking(1)) == 1
    assert continuing(looking(3), period=4) == 1


def test_each_score_is_zero_for_a_head_that_looks_one_token_further():
    assert previous_token(looking(2)[..., 2:, 2:]) == 0
    assert continuing(looking(4), period=4) == 0


def test_shuffled_rows_hold_the_words_in_another_order_each_and_none_twice(tiny):
    rows = shuffled_rows(tiny.tokenizer, WORDS, 12, 5)
    assert rows.shape == (5, 12) and len(rows.unique(dim=0)) == 5
    for row in rows.tolist():
        words = tiny.tokenizer.decode(row).split()
        assert len({*words}) == 12 and {*words} <= {*WORDS}
    assert torch.equal(rows, shuffled_rows(tiny.tokenizer, WORDS, 12, 24)[:5])


def test_an_even_look_sees_all_tokens_up_to_its_own_alike(tiny):
    even = even_weights(tiny.config, 5)
    torch.testing.assert_close(even[0, 0, 0], torch.ones(5, 5).tril() / torch.arange(1.0, 6)[:, None])


def test_the_weights_of_all_heads_times_the_values_are_what_the_heads_gathered(tiny):
    ids = torch.randint(2000, (2, 9), generator=torch.Generator().manual_seed(0))
    looks = head_weights(tiny.weights, tiny.config, ids)
    with trace() as t:
        forward(tiny.weights, ids, tiny.config)
    for layer, call in enumerate(t["gqa_attention"]):
        values = call.inputs["v"].repeat_interleave(2, dim=1)
        torch.testing.assert_close(looks[layer] @ values, call.output)


def test_a_head_without_its_columns_is_a_head_whose_output_is_zero(tiny):
    ids = torch.randint(2000, (1, 9), generator=torch.Generator().manual_seed(0))

    def silenced(q, k, v, mask=None):
        out = gqa_attention(q, k, v, mask).clone()
        out[:, 2] = 0
        return out

    all_layers = [(layer, 2) for layer in range(tiny.config.num_hidden_layers)]
    expected = forward(tiny.weights, ids, tiny.config, ops=Ops(attention=silenced))
    assert_near(forward(without(tiny.weights, tiny.config, all_layers), ids, tiny.config), expected)


def test_taking_a_head_away_leaves_the_given_weights_as_they_were(tiny):
    before = tiny.weights.layers[1].o_proj.clone()
    assert not torch.equal(without(tiny.weights, tiny.config, [(1, 0)]).layers[1].o_proj, before)
    assert torch.equal(tiny.weights.layers[1].o_proj, before)


def test_what_the_places_give_to_a_logit_is_together_what_the_layers_attention_gives(tiny):
    token_ids = torch.tensor([tiny.tokenizer.encode("Leo has a white coat. Leo has a white")])
    with trace() as t:
        forward(tiny.weights, token_ids, tiny.config)
    last = t["decoder_layer"][-1].output[0, -1]
    size = (last.pow(2).mean() + tiny.config.rms_norm_eps).sqrt()
    (word,) = tiny.tokenizer.encode(" coat")
    for layer, call in enumerate(t["self_attention"]):
        part = call.output[0, -1] / size * tiny.weights.norm @ tiny.weights.embed_tokens[word]
        (given,) = given_by_place(tiny.weights, tiny.config, token_ids, layer, [word])
        assert given.shape == token_ids[0].shape
        torch.testing.assert_close(given.sum(), part, rtol=1e-3, atol=1e-3)  # logits of 10; added in another order


def test_normed_terms_keep_their_proportions_and_add_up_to_the_normed_sum():
    terms, weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), torch.rand(8) + 0.5
    found = normed_terms(terms, weight, 0.5)
    torch.testing.assert_close(found.sum(0), rms_norm(terms.sum(0), weight, 0.5))
    torch.testing.assert_close(found / weight / terms, (found[0, 0] / weight[0] / terms[0, 0]).expand(5, 8))


def test_a_place_gives_its_value_times_the_weight_of_each_head(tiny):
    token_ids, width = torch.tensor([[5, 6, 7]]), tiny.config.head_dim
    with trace() as t:
        forward(tiny.weights, token_ids, tiny.config)
    looks, v = head_weights(tiny.weights, tiny.config, token_ids)[1, 0], t["gqa_attention"][1].inputs["v"][0]
    group, size = len(looks) // len(v), t["decoder_layer"][-1].output[0, -1].pow(2).mean().sqrt()
    row = tiny.weights.norm * tiny.weights.embed_tokens[9] / size
    slices = tiny.weights.layers[1].o_proj.split(width, dim=1)  # [hidden, head_dim] of each head
    expected = [
        sum(looks[head, -1, place] * (part @ v[head // group, place]) @ row for head, part in enumerate(slices))
        for place in range(3)
    ]
    _, given = given_by_place(tiny.weights, tiny.config, token_ids, 1, [8, 9])
    torch.testing.assert_close(given, torch.stack(expected), rtol=1e-3, atol=1e-4)  # epsilon is left out here


def test_a_margin_is_the_right_logit_less_the_best_other_averaged_over_a_texts_steps(tiny, lookups):
    logits = forward(tiny.weights, lookups.token_ids, tiny.config)
    found = []
    for text, query, answer in zip(lookups.text, lookups.query, lookups.answers, strict=True):
        line = logits[text, query].float()
        found.append(line[answer] - max(line[:answer].max(), line[answer + 1 :].max()))
    torch.testing.assert_close(margins(tiny.weights, tiny.config, lookups), by_text(torch.stack(found), lookups))


def test_each_texts_mean_counts_its_own_steps_alone(lookups):
    assert torch.equal(by_text(lookups.text.float(), lookups), torch.arange(len(lookups.token_ids)).float())
    looks = head_weights_of_ones(lookups)
    everywhere = torch.ones_like(lookups.followers)
    assert torch.equal(looked(looks, lookups, everywhere)[0, 1], torch.full((len(lookups.token_ids),), 3.0))
    assert torch.equal(looked(looks[:, :1], lookups, everywhere), looked(looks, lookups, everywhere))


def head_weights_of_ones(lookups):
    """Of two heads of one layer: the second gives three tokens a whole weight each, whatever is asked."""
    texts, seq = lookups.token_ids.shape
    looks = torch.zeros(1, texts, 2, seq, seq)
    looks[:, :, 1, :, :3] = 1
    return looks


def test_a_head_that_gathers_its_mean_writes_the_same_at_every_token(tiny, lookups):
    means = mean_gathered(tiny.weights, tiny.config, lookups)
    assert means.shape == (tiny.config.num_hidden_layers, tiny.config.num_attention_heads, tiny.config.head_dim)

    def constant(q, k, v, mask=None):
        out = gqa_attention(q, k, v, mask).clone()
        out[:, 2] = means[3, 2].to(out.dtype)
        return out

    with trace() as t:
        forward(tiny.weights, lookups.token_ids, tiny.config)
    texts = lookups.text.unique().tolist()
    ends = [int(lookups.query[lookups.text == text].max()) + 1 for text in texts]  # without the padding
    gathered = [t["gqa_attention"][3].output[text, :, :end] for text, end in zip(texts, ends, strict=True)]
    torch.testing.assert_close(means[3], torch.cat(gathered, 1).mean(1))
    last = tiny.weights.layers[3]
    ids = lookups.token_ids[:1]
    with trace() as t:
        forward(tiny.weights, ids, tiny.config)
    call = t["self_attention"][3].inputs
    given = (call["x"], call["table"], call["mask"])

    def attended(layer, ops):
        return self_attention(given[0], layer, tiny.config, given[1], given[2], ops=ops)

    changed = with_means(tiny.weights, tiny.config, [(3, 2)], means).layers[3]
    torch.testing.assert_close(attended(changed, Ops()), attended(last, Ops(attention=constant)), atol=2e-2, rtol=2e-2)
    assert last.o_bias is None and changed.o_bias is not None


def test_patching_nothing_or_from_the_same_weights_changes_nothing(tiny, lookups):
    whole = margins(tiny.weights, tiny.config, lookups)
    for parts in ("", "q", "kv", "qkv"):
        found = patched(tiny.weights, tiny.config, lookups, tiny.weights, 1, parts)
        assert torch.equal(found.margins, whole)
    looks = head_weights(tiny.weights, tiny.config, lookups.token_ids)
    torch.testing.assert_close(found.looks, looked(looks, lookups, lookups.followers)[1])


def test_values_from_another_pass_change_what_is_said_and_not_where_heads_look(tiny, lookups):
    whole = patched(tiny.weights, tiny.config, lookups, tiny.weights, 1, "")
    donor = tiny.weights._replace(embed_tokens=tiny.weights.embed_tokens.flip(0))
    values = patched(tiny.weights, tiny.config, lookups, donor, 1, "v")
    assert torch.equal(values.looks, whole.looks) and (values.margins < whole.margins).all()
    keys = patched(tiny.weights, tiny.config, lookups, donor, 1, "k")
    assert not torch.equal(keys.looks, whole.looks)


def test_a_layer_attends_with_what_is_lent_and_all_others_with_their_own(tiny):
    ids = torch.randint(2000, (1, 9), generator=torch.Generator().manual_seed(0))
    lent = {part: torch.randn(1, heads, 9, tiny.config.head_dim) for part, heads in (("q", 8), ("k", 4), ("v", 4))}
    with trace() as t:
        forward(tiny.weights, ids, tiny.config, ops=lending(lent, 2, "kv"))
    with trace() as own:
        forward(tiny.weights, ids, tiny.config)
    for layer, (call, usual) in enumerate(zip(t["gqa_attention"], own["gqa_attention"], strict=True)):
        for part in "qkv":
            taken = torch.equal(call.inputs[part], lent[part]) if layer == 2 and part != "q" else None
            same = torch.equal(call.inputs[part], usual.inputs[part])
            assert taken or (same if layer < 3 else not same)


def test_heads_of_one_layer_notice_nothing_of_each_other(tiny, lookups):
    looks = head_weights(tiny.weights, tiny.config, lookups.token_ids)
    less = head_weights(without(tiny.weights, tiny.config, [(1, 0), (1, 1)]), tiny.config, lookups.token_ids)
    assert torch.equal(less[:2], looks[:2]) and not torch.equal(less[2:], looks[2:])


@unchecked()  # many passes of one form, whose shapes other tests check
@torch.inference_mode()
def test_one_early_head_is_missed_in_the_keys_of_look_up_heads_and_another_in_their_queries(tiny, lookups):
    seekers = seekers_of(tiny, lookups)
    layer, numbers = seekers[0][0], [head for at, head in seekers if at == seekers[0][0]]

    def weight(part, *heads):
        donor = without(tiny.weights, tiny.config, heads)
        return float(patched(tiny.weights, tiny.config, lookups, donor, layer, part).looks[numbers].mean())

    earlier = [(at, head) for at in range(layer) for head in range(tiny.config.num_attention_heads)]
    whole = weight("k")
    for_keys, for_queries = (min(earlier, key=lambda at, part=part: weight(part, at)) for part in "kq")
    assert for_keys != for_queries
    assert weight("k", for_keys) < 0.6 * whole < 0.8 * whole < weight("q", for_keys)
    assert weight("q", for_queries) < 0.6 * whole < 0.8 * whole < weight("k", for_queries)


@unchecked()  # many passes of one form, whose shapes other tests check
@torch.inference_mode()
def test_the_heads_that_look_the_answer_up_cost_more_than_any_as_many_of_their_layer(tiny, lookups):
    seekers = seekers_of(tiny, lookups)
    found = tuple(at for at in seekers if at[0] == seekers[0][0])
    whole = margins(tiny.weights, tiny.config, lookups).mean()

    def cost(*heads):
        return float(whole - margins(without(tiny.weights, tiny.config, heads), tiny.config, lookups).mean())

    together = cost(*found)
    layer = [(found[0][0], head) for head in range(tiny.config.num_attention_heads)]
    assert together > 0.5 * whole
    assert all(cost(*group) < together for group in combinations(layer, len(found)) if group != found)


def test_a_head_raises_the_word_it_looks_at_where_value_and_output_head_say_so(tiny, lookups):
    words = lookups.answers.unique()
    copied = copying(tiny.weights, tiny.config, words[None], words)
    assert all(copied[at] > 0.5 for at in seekers_of(tiny, lookups))


@torch.inference_mode()
def test_a_head_that_gathers_on_the_same_text_gathers_what_it_gathers(tiny, lookups):
    same = gathered_on(tiny.weights, tiny.config, lookups.token_ids, (2, 3))
    assert torch.equal(margins(tiny.weights, tiny.config, lookups, same), margins(tiny.weights, tiny.config, lookups))
