"""Where a story's thinking looks a word up, and how much of its weight a head gives to the place that it needs."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..checkpoints.checkpoint import Checkpoint, tokenizer_of
from ..errors import Error
from ..tokenizer import Tokenizer
from .corpus import Example
from .evaluate import chat_ids


class Lookups(NamedTuple):
    """Places in texts where a word is looked up that stands further back, behind the word that is read.

    A step reads token `query` of text `text`, and the next token is right if it follows the same word as before.
    """

    token_ids: Int[Tensor, "texts seq"]  # padded at the end, where causal attention never looks
    text: Int[Tensor, "steps"]
    query: Int[Tensor, "steps"]
    followers: Bool[Tensor, "steps seq"]  # where the right word stands, behind an earlier copy of the word read
    others: Bool[Tensor, "steps seq"]  # the other words of the notes

    @property
    def answers(self) -> Int[Tensor, "steps"]:
        """The words that are right."""
        return self.token_ids[self.text, self.query + 1]


def story_lookups(checkpoint: Checkpoint, examples: Sequence[Example]) -> Lookups:
    """Each step from word to word in the last line of a story's thinking, `> coat Leo`, after notes on all people.

    Raises Error where an example's thinking has no such line.
    """
    texts = []
    for example in examples:
        if "\n> " not in example.thinking:
            raise Error(f"thinking: {example.thinking!r} found, expected a last line such as '> coat Leo'")
        texts.append(chat_ids(checkpoint, example)[0])
    return lookups_in(checkpoint, texts)


def lookups_in(checkpoint: Checkpoint, texts: Sequence[list[int]]) -> Lookups:
    """The same in chats that are written already, each up to the end of its thinking's last line."""
    rows: list[list[int]] = []
    steps: list[tuple[int, int, list[int], list[int]]] = []
    for ids in texts:
        notes, walk = notes_and_walk(tokenizer_of(checkpoint), ids)
        for query in walk[:-1]:
            behind = [place for place in notes if ids[place - 1 : place + 1] == ids[query : query + 2]]
            steps.append((len(rows), query, behind, [place for place in notes if place not in behind]))
        rows.append(ids[: walk.stop])
    place = checkpoint.device
    token_ids = pad_sequence([torch.tensor(ids, device=place) for ids in rows], batch_first=True)
    seq = range(token_ids.shape[1])
    numbers, queries, *places = zip(*steps, strict=True)
    masks = (torch.tensor([[at in chosen for at in seq] for chosen in each], device=place) for each in places)
    return Lookups(token_ids, torch.tensor(numbers, device=place), torch.tensor(queries, device=place), *masks)


def notes_and_walk(tokenizer: Tokenizer, ids: list[int]) -> tuple[list[int], range]:
    """Where the words of the noted lines (`- Leo school ...`) of a chat's last thinking stand, and of its last line."""
    think, end = (len(ids) - 1 - ids[::-1].index(tokenizer.encode(mark)[0]) for mark in ("<think>", "</think>"))
    texts = [tokenizer.decode([token]).strip() for token in ids[:end]]
    start = max(place for place in range(think, end) if texts[place] == ">") + 1
    walk = range(start, next((place for place in range(start, end) if not texts[place]), end))  # to the line break
    return [place for place in range(think + 1, start) if texts[place].isalpha()], walk


def weight_on(
    looks: Float[Tensor, "layers batch heads seq seq"], lookups: Lookups, places: Bool[Tensor, "steps seq"]
) -> Float[Tensor, "layers heads"]:
    """Share of its weight that a head gives to `places`, averaged over the steps."""
    asked = looks[:, lookups.text, :, lookups.query]  # [steps, layers, heads, seq]
    return (asked * places[:, None, None]).sum(-1).mean(0)
