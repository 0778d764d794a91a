"""What chapter 16 and appendix A6 count of a model that is cut: bytes, sum around a ring, messages, seconds at best."""

from itertools import combinations, pairwise
from math import prod

import pytest
import torch
from drawings import ring_counts, split_config

from qwen3_scratch.checkpoints.weights import all_slots, tensor_tree
from qwen3_scratch.devices.slices import Place, own_slot, shard_weights
from qwen3_scratch.inside.cutting import (
    cache_numbers,
    device_bytes,
    expert_numbers,
    fits,
    grids_of,
    part_that_comes,
    pipeline_seconds,
    pipeline_starts,
    ranks_hit,
    released,
    ring_steps,
    sum_seconds,
    vectors_sent,
    work_seconds,
)


def test_the_released_mixtures_have_the_parameters_that_their_names_and_reports_say():
    found = {name: (model.num_parameters(), model.num_parameters(active=True)) for name, model in released().items()}
    billions = {name: tuple(round(each / 1e9, 1) for each in pair) for name, pair in found.items()}
    assert billions == {"Qwen3-30B-A3B": (30.5, 3.4), "Qwen3-235B-A22B": (235.1, 22.2)}


def test_a_layer_with_a_window_keeps_no_more_than_its_window():
    config = split_config()
    assert cache_numbers(config, 10) == 2 * 2 * 10 * 2 * 32
    windows = ("sliding_attention", "full_attention")
    config = split_config(model_type="qwen3", num_experts=0, mlp_only_layers=(), use_sliding_window=True,
                          sliding_window=4, layer_types=windows)  # fmt: skip
    assert cache_numbers(config, 10) == 2 * (4 + 10) * 2 * 32


def test_of_the_grids_those_with_most_ranks_are_kept_that_divide():
    assert grids_of(split_config(), 4) == [(1, 4), (2, 2), (4, 1)]
    assert grids_of(split_config(model_type="qwen3", num_experts=0, mlp_only_layers=()), 4) == [(4, 1)]
    assert grids_of(split_config(num_attention_heads=2, num_experts=6), 4) == [(2, 2)]
    assert not fits(split_config(), 3, 1) and not fits(split_config(), 4, 0)


@pytest.mark.parametrize(("tensors", "experts"), [(1, 1), (4, 1), (1, 8), (2, 2), (8, 2)])
def test_the_bytes_of_a_device_are_those_of_its_slices_and_of_its_heads_in_the_cache(tensors, experts):
    config, place = split_config(mlp_only_layers=()), Place(0, 0, tensors, experts)
    slots = [own for slot in all_slots(config) if (own := own_slot(config, place, slot)) is not None]
    heads = max(1, 2 // tensors)
    expected = 2 * (sum(prod(slot.shape) for slot in slots) + 2 * 2 * 100 * heads * 32)
    assert device_bytes(config, tensors, experts, 100) == expected


def test_what_a_device_is_said_to_hold_is_what_its_slices_hold():
    from reference import random_weights

    config = split_config(mlp_only_layers=(), vocab_size=64, hidden_size=32)
    mine = shard_weights(random_weights(config), config, Place(0, 0, 2, 4))
    assert device_bytes(config, 2, 4, 0) == 2 * sum(tensor.numel() for tensor in tensor_tree(mine))


# ---- around a ring -----------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_after_all_steps_around_a_ring_every_rank_holds_every_sum(ranks):
    x = torch.randint(100, (ranks, ranks), generator=torch.Generator().manual_seed(0))
    steps = ring_steps(x, part_that_comes)
    assert torch.equal(steps[0], x) and len(steps) == 2 * ranks - 1
    assert torch.equal(steps[-1], x.sum(0).expand(ranks, ranks))


def test_of_ones_the_steps_count_how_many_ranks_a_part_sums():
    assert torch.equal(ring_steps(torch.ones(4, 4, dtype=torch.long), part_that_comes), ring_counts(4))


def test_in_each_step_one_part_of_a_rank_changes_and_x_stays_as_it_was():
    x = torch.rand(5, 5)
    before = x.clone()
    steps = ring_steps(x, part_that_comes)
    assert torch.equal(x, before)
    assert ((steps[1:] != steps[:-1]).sum(2) == 1).all()


# ---- what is chosen and how long it takes ------------------------------------------------------


def test_the_ranks_that_a_token_hits_are_those_of_all_its_choices_counted():
    for ranks, k, experts in ((2, 2, 6), (4, 3, 8), (3, 2, 8)):
        owner = [next(r for r in range(ranks) if e < experts * (r + 1) // ranks) for e in range(experts)]
        counted = [len({owner[e] for e in chosen}) for chosen in combinations(range(experts), k)]
        assert ranks_hit(ranks, k, experts) == pytest.approx(sum(counted) / len(counted))


def test_a_small_sum_is_sent_to_all_at_once_and_a_large_one_goes_around_the_ring():
    assert sum_seconds(1e3, 4, 50e9, 10e-6) == pytest.approx(10e-6 + 3 * 20e-9)  # one latency, three vectors
    assert sum_seconds(4e6, 4, 50e9, 10e-6) == pytest.approx(180e-6)  # six steps of a quarter, as chapter 16 counts
    assert sum_seconds(4e6, 1, 50e9, 10e-6) == 0


def played(texts, hosts, work, send):
    """A pipeline played through, text by text: a host or link takes a text once it is there and it is free."""
    host, link = [0.0] * hosts, [0.0] * hosts  # when they are free
    for _ in range(texts):
        there = 0.0
        for at in range(hosts):
            host[at] = max(host[at], there) + work
            there = link[at] = max(link[at], host[at]) + send
    return host[-1]


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("texts", [1, 2, 8])
@pytest.mark.parametrize(("work", "send"), [(10, 1), (2, 5), (3, 3), (1, 0)])
def test_a_pipeline_takes_as_long_as_when_it_is_played_through_text_by_text(texts, hosts, work, send):
    assert pipeline_seconds(texts, hosts, work, send) == played(texts, hosts, work, send)


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("texts", [1, 2, 8])
@pytest.mark.parametrize(("work", "send"), [(10, 1), (2, 5), (3, 3), (1, 0)])
def test_hosts_begin_with_a_text_once_it_is_there_and_end_when_the_pipeline_is_said_to(texts, hosts, work, send):
    starts = pipeline_starts(texts, hosts, work, send)
    assert starts[-1][-1] + work == pipeline_seconds(texts, hosts, work, send)
    assert all(b - a >= work for mine in starts for a, b in pairwise(mine))
    assert all(b - a >= work + send for one, other in pairwise(starts) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_token_is_sent_once_to_each_rank_that_owns_some_of_its_experts(ranks):
    chosen = torch.rand(12, 8, generator=torch.Generator().manual_seed(0)).topk(3).indices
    counted = torch.zeros(ranks, ranks, dtype=torch.long)
    for token, experts in enumerate(chosen.tolist()):
        for owner in {expert * ranks // 8 for expert in experts}:
            counted[token * ranks // 12, owner] += 1
    assert torch.equal(vectors_sent(chosen, 8 // ranks, ranks), counted)


def test_one_token_uses_its_own_experts_and_many_use_all():
    config = split_config()
    one = 3 * 128 * 64  # numbers of an expert; one of two layers has experts
    assert expert_numbers(config, 1) == pytest.approx(2 * one)
    assert expert_numbers(config, 2) == pytest.approx((2 + 2 * 14 / 16) * one)
    assert expert_numbers(config, 10**6) == pytest.approx(16 * one)


def test_one_token_waits_for_weights_to_be_read_and_many_for_products():
    qwen = released()["Qwen3-30B-A3B"]
    used = qwen.num_parameters(active=True) - 151936 * 2048
    assert work_seconds(qwen, 1) == pytest.approx(2 * used / 3.35e12)
    assert work_seconds(qwen, 1, 1 / 2) == pytest.approx(work_seconds(qwen, 1) / 4)
    assert work_seconds(qwen, 4096) == work_seconds(qwen, 4096, 1 / 2) == pytest.approx(2 * used * 4096 / 989e12)
    assert work_seconds(qwen, 64) > 64 * 2 * used / 989e12  # still reading, of nearly all experts
