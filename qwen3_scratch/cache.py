"""The key/value cache: what earlier tokens left behind, so that each new token computes only itself.

This is the one thing in the package that is written in place.
"""

from bisect import bisect_right
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .config import Config
from .errors import Error, of_kind, shown, whole_number
from .model import NEVER
from .trust.arguments import any_true, check_device
from .trust.memory import available_memory, size_text


class KVCache:
    """Preallocated keys and values of every layer, for `batch` rows of at most `max_length` tokens.

    A layer with a sliding window keeps only a ring of the last `window + chunk - 1` tokens (never more than
    `max_length`), where `chunk` is the most tokens that one call of `forward` brings; memory then stays flat however
    long the text grows. Without `chunk` every layer keeps all. In a ring, padding belongs on the left: padding
    after a row's tokens would push them out early.

    Memory: layers x 2 x batch x kv_heads x length x head_dim x bytes of `dtype`.
    """

    def __init__(
        self, config: Config, batch: int, max_length: int, *, chunk: int | None = None,
        dtype: torch.dtype | None = None, device: torch.device | str | None = None,
    ) -> None:  # fmt: skip
        if not all(type(size) is int and size > 0 for size in (batch, max_length, 1 if chunk is None else chunk)):
            batch, max_length = whole_number("cache", "batch", batch), whole_number("cache", "max_length", max_length)
            chunk = None if chunk is None else whole_number("cache", "chunk", chunk)
        if not isinstance(config, Config):
            of_kind("cache", "config", config, Config)
        if dtype is not None and not getattr(dtype, "is_floating_point", False):
            raise Error(f"cache: dtype is {shown(dtype)}, expected a floating type such as torch.bfloat16")
        self.config, self.batch, self.max_length, self.chunk = config, batch, max_length, chunk
        self.length = self.furthest = 0  # tokens held, and the most that were held before some were forgotten
        self.capacities = capacities(config, max_length, chunk)
        self.keeps_all = max_length in self.capacities  # some layer does, so the text may not grow past it
        self.has_rings = min(self.capacities) < max_length
        try:
            self.upcoming = torch.zeros(batch, dtype=torch.long, device=device)
        except (RuntimeError, AssertionError, TypeError, ImportError):
            check_device(device)
            raise
        self.keys, self.values = [], []
        for capacity in self.capacities:
            shape = (batch, config.num_key_value_heads, capacity, config.head_dim)
            self.keys.append(torch.empty(shape, dtype=dtype, device=device))
            self.values.append(torch.empty(shape, dtype=dtype, device=device))
        self.positions = {
            capacity: torch.full((batch, capacity), NEVER, dtype=torch.long, device=device)
            for capacity in set(self.capacities)
        }

    def next_positions(self, batch: int) -> Int[Tensor, "batch"]:
        """The position of each row's next token: one past the last token, padding aside, that the row holds."""
        self.check_rows(batch)
        return self.upcoming

    def check_rows(self, batch: int) -> None:
        """Raises Error for a batch of another size than the cache was made for."""
        if batch != self.batch:
            raise Error(f"cache: {batch} rows arrived, expected {self.batch}: make the cache for as many as the batch")

    def check(self, config: Config, batch: int, like: Tensor) -> None:
        """Raises Error for a batch, a model, or a type or device of weights that this cache was not made for."""
        self.check_rows(batch)
        held, found = self.keys[0], (config.num_key_value_heads, config.head_dim)
        if config is not self.config:
            windows = capacities(config, self.max_length, self.chunk)
            if (held.shape[1], held.shape[3]) != found or windows != self.capacities:
                raise Error("cache: the config has other layers or heads, expected those it was made for: make another")
        if (held.dtype, held.device) != (like.dtype, like.device):
            found_kind, expected = (f"{each.dtype} on {each.device}" for each in (held, like))
            advice = "make it with the dtype and device of the weights"
            raise Error(f"cache: is {found_kind}, expected {expected}: {advice}")

    def check_room(self, batch: int, new: int) -> None:
        """Raises Error where so many rows of so many new tokens do not fit."""
        self.check_rows(batch)
        if self.chunk is not None and self.has_rings and new > self.chunk:
            expected = f"expected at most chunk={self.chunk}"
            raise Error(f"cache: {new} tokens arrived in one call, {expected}: split the prompt")
        if self.keeps_all and self.length + new > self.max_length:
            held = f"holds {self.length} of {self.max_length} tokens"
            raise Error(f"cache: {held}, {new} more do not fit: make it with a larger max_length")

    def extend(self, key_positions: Int[Tensor, "batch seq"]) -> None:
        """Makes room for a call's tokens in every layer; `write` then fills it. Raises Error where there is none."""
        new = key_positions.shape[1]
        self.check_room(len(key_positions), new)
        padding = key_positions == NEVER
        if self.has_rings and any_true(padding & ((self.upcoming[:, None] > 0) | ((~padding).cumsum(-1) > 0))):
            reason = "it would push them out of a sliding window's ring"
            raise Error(
                f"cache: padding after a row's tokens, expected it before them, since {reason}: pad on the left"
            )
        start, self.length = self.length, self.length + new
        self.slots = {capacity: self._slots(capacity, start) for capacity in self.positions}
        for capacity, positions in self.positions.items():
            positions[:, self.slots[capacity]] = key_positions
        self.upcoming = torch.maximum(self.upcoming, key_positions.masked_fill(padding, -1).amax(-1) + 1)

    def rewind(self, tokens: int) -> None:
        """Forgets the last `tokens` of every row, padding counted, as if they had never come; all of them: a reset.

        Raises Error for more than are held, and where a ring has overwritten what the token after them would look at:
        once it is full, it goes back by `chunk` tokens at most.
        """
        self.furthest, tokens = max(self.furthest, self.length), whole_number("cache", "tokens to rewind by", tokens, 0)
        left = self.length - tokens
        if left < 0:
            raise Error(f"cache: rewind by {tokens} tokens, expected 0 to {self.length}, which are held: ask for fewer")
        if self.chunk is not None and 0 < left < self.furthest - self.chunk and min(self.capacities) < self.furthest:
            most = max(0, self.length - self.furthest + self.chunk)
            expected = f"expected at most {most} or all: a sliding window's ring has overwritten what lies before"
            raise Error(f"cache: rewind by {tokens} tokens, {expected}; read the text anew")
        for capacity, positions in self.positions.items():
            gone = torch.arange(max(left, self.length - capacity), self.length) % capacity
            forgotten = (positions[:, gone] != NEVER).sum(-1)  # the same for each capacity, unless all goes
            positions[:, gone] = NEVER
        self.upcoming = self.upcoming - forgotten if left else torch.zeros_like(self.upcoming)
        self.length, self.furthest = left, self.furthest if left else 0

    def copy(self, rows: Sequence[int] | None = None, max_length: int | None = None) -> "KVCache":
        """A cache of its own that holds the same, or these rows, each as often as it is named.

        So a prefix is read once for many answers: `cache.copy([0] * 4)` is a batch of four that has read row 0. A
        larger `max_length` makes room. Raises Error for a row that is not there and for a smaller `max_length`.
        """
        chosen = [
            whole_number("cache", "row of a copy", row, 0) for row in (range(self.batch) if rows is None else rows)
        ]
        if not chosen or max(chosen) >= self.batch:
            raise Error(f"cache: copy of rows {shown(chosen)}, expected some of 0 to {self.batch - 1}: name others")
        room = whole_number("cache", "max_length of a copy", max_length or self.max_length, self.max_length)
        dtype, device = self.keys[0].dtype, self.keys[0].device
        made = KVCache(self.config, len(chosen), room, chunk=self.chunk, dtype=dtype, device=device)
        made.length, made.furthest, made.upcoming = self.length, self.furthest, self.upcoming[chosen]
        for layer, (old, new) in enumerate(zip(self.capacities, made.capacities, strict=True)):
            held = min(old, max(self.length, self.furthest))
            made.positions[new][:, :held] = self.positions[old][chosen, :held]
            made.keys[layer][:, :, :held] = self.keys[layer][chosen, :, :held]
            made.values[layer][:, :, :held] = self.values[layer][chosen, :, :held]
        return made

    def key_positions(self, layer: int) -> Int[Tensor, "batch held"]:
        """The position of every key that this layer holds, `NEVER` where it is padding."""
        capacity = self.capacities[layer]
        return self.positions[capacity][:, : min(self.length, capacity)]

    def write(
        self,
        layer: int,
        k: Float[Tensor, "batch kv_heads seq head_dim"],
        v: Float[Tensor, "batch kv_heads seq head_dim"],
    ) -> tuple[Float[Tensor, "batch kv_heads held head_dim"], Float[Tensor, "batch kv_heads held head_dim"]]:
        """Stores a call's keys and values and returns all that the layer holds, as views."""
        capacity = self.capacities[layer]
        slots, held = self.slots[capacity], min(self.length, capacity)
        self.keys[layer][:, :, slots] = k
        self.values[layer][:, :, slots] = v
        return self.keys[layer][:, :, :held], self.values[layer][:, :, :held]

    def _slots(self, capacity: int, start: int) -> slice | Tensor:
        """Where the tokens from `start` on go: the next free slots, which in a ring are those of the oldest tokens."""
        if self.length <= capacity:
            return slice(start, self.length)
        return torch.arange(start, self.length) % capacity


def turned_anew(config: Config, length: int) -> bool:
    """Whether in a text of so many tokens keys are turned by other angles than in a shorter one."""
    rope = config.rope_parameters
    trained = rope.get("original_max_position_embeddings", config.max_position_embeddings)
    return rope["rope_type"] in ("dynamic", "longrope") and length > trained


def capacities(config: Config, max_length: int, chunk: int | None) -> list[int]:
    """How many tokens each layer keeps."""
    windows = [config.window(number) for number in range(config.num_hidden_layers)]
    rings = [max_length if window is None or chunk is None else window + chunk - 1 for window in windows]
    return [min(ring, max_length) for ring in rings]


def bytes_needed(config: Config, batch: int, prompt: int, new: int, chunk: int, itemsize: int) -> int:
    """Bytes that `batch` prompts of up to `prompt` tokens and `new` more take: the cache, and reading one chunk.

    Of a chunk's reading it counts the mask, whose whole numbers of 8 bytes are made for every pair of tokens, the
    activations that one layer holds at a time, and the logits while one is drawn from.
    """
    kept = capacities(config, prompt + new, chunk)
    cache = 2 * sum(kept) * config.num_key_value_heads * config.head_dim * itemsize + 8 * sum(set(kept))
    read = min(chunk, prompt)
    widest = 4 * config.num_attention_heads * config.head_dim + 4 * config.hidden_size
    widest += 4 * max(config.moe_intermediate_size, config.intermediate_size)
    mask = 12 * max(capacities(config, prompt, chunk), default=0)
    return batch * (cache + read * (mask + widest * itemsize) + 16 * config.vocab_size)


def check_memory(
    config: Config, batch: int, prompt: int, new: int, *, chunk: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Raises Error, with what would fit, where `batch` prompts and their answers need more memory than is free.

    Asked beforehand, since a CPU's memory is granted at once and missed only later, when the system ends the process.
    """

    def needed(rows: int, tokens: int) -> int:
        return bytes_needed(config, rows, prompt, tokens, chunk, dtype.itemsize)

    known = available_memory(device)
    free = None if known is None else known - known // 32  # allocators take a little more than they are asked for
    if free is None or needed(batch, new) <= free:
        return
    fewer = bisect_right(range(new), free, key=lambda tokens: needed(batch, tokens)) - 1
    rows = bisect_right(range(batch), free, key=lambda rows: needed(rows, new)) - 1
    advice = [f"lower max_new_tokens to {fewer}"] * (fewer > 0) + [f"give at most {rows} prompts at once"] * (rows > 0)
    asked = f"{batch} prompts" if batch > 1 else "the prompt"
    found = f"{size_text(needed(batch, new))} beside the weights, found {size_text(free)} free on {device}"
    asked = f"generate: {asked} of {prompt} tokens and max_new_tokens={new} need {found}"
    raise Error(f"{asked}: {' or '.join(advice) or 'shorten the prompt or free memory'}")
