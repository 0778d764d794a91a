"""A step of writing with shapes that never change, and such a step recorded: a list of operations, done again."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..cache import KVCache
from ..checkpoints.checkpoint import Checkpoint
from ..config import Config
from ..model import Ops, forward, moe
from .kernels import Tape, tensors, writes

ROOM = 256  # tokens that fit behind the prompt


class StaticCache:
    """A cache that always hands out all its slots [batch, kv_heads, length, head_dim]; the mask hides later ones.

    What `forward` asks of a cache: `extend` (positions come), `key_positions` (where keys stand) and `write`. Slots
    begin at zero, since a hidden one weighs 0, but 0 times NaN is NaN.
    """

    def __init__(self, config: Config, length: int, like: Tensor, batch: int = 1):
        shape = config.num_hidden_layers, batch, config.num_key_value_heads, length, config.head_dim
        self.keys, self.values = like.new_zeros(2, *shape)
        self.slots = torch.arange(length, device=like.device)

    def extend(self, key_positions: Int[Tensor, "batch new"]) -> None:
        self.now = key_positions[0]

    def key_positions(self, layer: int) -> Int[Tensor, "1 length"]:
        return self.slots[None]

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys = self.keys[layer].index_copy_(2, self.now, k)
        return keys, self.values[layer].index_copy_(2, self.now, v)


def growing_cache(config: Config, length: int, like: Tensor) -> KVCache:
    return KVCache(config, 1, length, dtype=like.dtype, device=like.device)


class Writer:
    """Writes a text after a prompt, the likeliest token each time; `token` [1, 1] and `position` [1] say what is next.

    `form` does the experts of a step, `moe` those of the prompt; `make_cache(config, length, like)` is a cache's kind.
    """

    def __init__(
        self, checkpoint: Checkpoint, prompt: Sequence[int], form: Callable[..., Tensor] = moe,
        make_cache: Callable[..., Any] = growing_cache,
    ) -> None:  # fmt: skip
        self.checkpoint, like = checkpoint, checkpoint.weights.norm
        self.cache = make_cache(checkpoint.config, len(prompt) + ROOM, like)
        ids, places = torch.tensor([prompt], device=like.device), torch.arange(len(prompt), device=like.device)
        self.token, self.position = self.read(ids, places, Ops())
        self.ops = Ops(moe=form)

    def read(
        self, tokens: Int[Tensor, "1 new"], places: Int[Tensor, "new"], ops: Ops
    ) -> tuple[Int[Tensor, "1 1"], Int[Tensor, "1"]]:
        """Tokens at their places -> the likeliest next token, and its position."""
        options = {"positions": places[None], "cache": self.cache, "logits_to_keep": 1, "ops": ops}
        logits = forward(self.checkpoint.weights, tokens, self.checkpoint.config, **options)
        return self.pick(logits[:, -1:]), places[-1:] + 1

    def pick(self, logits: Float[Tensor, "*batch vocab"]) -> Int[Tensor, "*batch"]:
        """The likeliest of the tokens that the tokenizer knows, if there is one."""
        tokenizer = self.checkpoint.tokenizer
        return logits[..., : tokenizer.vocab_size if tokenizer else None].argmax(-1)

    def step(self) -> tuple[Tensor, Tensor]:
        """Reads the newest token; what comes next is handed out, and not written down."""
        return self.read(self.token, self.position, self.ops)

    def advance(self) -> None:
        """A step that writes what comes next where the step after it reads."""
        for old, new in zip((self.token, self.position), self.step(), strict=True):
            old.copy_(new)

    def recorded(self) -> Callable[[], None]:
        """`advance` as a recording, made where the text stands and goes on from."""
        before = self.token.clone(), self.position.clone()
        replay = record(self.advance)
        for place, value in zip((self.token, self.position), before, strict=True):
            place.copy_(value)
        return replay

    def write(self, tokens: int, advance: Callable[[], Any] | None = None) -> list[int]:
        """So many tokens, by `advance` or by another way to go on. No value is asked for before the last one."""
        written = []
        for _ in range(tokens):
            written.append(self.token[0].clone())
            (advance or self.advance)()
        return torch.cat(written).tolist()


def record(work: Callable[[], Any]) -> Callable[[], None]:
    """Does `work` once and writes its operators down; each call of what is returned does them again, without `work`.

    As in a CUDA graph they read and write the same memory each time: of what Python asked the answer stays, and the
    shapes stay. It is for looking at: it launches each operator, as `work` does. Views need nothing: the memory that
    they look at is the same.
    """
    with Tape() as tape:
        work()
    written = [(call, tensors(call.outputs) if writes(call) else []) for call in tape.entries]
    kept = [(call, places) for call, places in written if places or call.operator._schema.is_mutable]

    def replay() -> None:
        for call, places in kept:
            found = tensors(call.operator(*call.inputs, **call.options))
            for place, new in zip(places, found, strict=False):
                place.copy_(new)

    return replay


def agreed(written: Sequence[int], expected: Sequence[int]) -> int:
    """How many tokens are right before the first wrong one."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(written, expected, strict=True))))
