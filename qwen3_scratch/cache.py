"""The key/value cache: what earlier tokens left behind, so that each new token computes only itself.

This is the one thing in the package that is written in place.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .config import Config
from .errors import Error
from .model import NEVER


class KVCache:
    """Preallocated keys and values of every layer, for `batch` rows of at most `max_length` tokens.

    A layer with a sliding window keeps only a ring of the last `window + chunk - 1` tokens (never more than
    `max_length`), where `chunk` is the most tokens that one call of `forward` brings; memory then stays flat however
    long the text grows. Without `chunk` every layer keeps all. In a ring, padding belongs on the left: padding
    after a row's tokens would push them out early.

    Memory: layers x 2 x batch x kv_heads x length x head_dim x bytes of `dtype`.
    """

    def __init__(
        self,
        config: Config,
        batch: int,
        max_length: int,
        *,
        chunk: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        self.batch, self.max_length, self.chunk, self.length = batch, max_length, chunk, 0
        self.capacities = []
        for number in range(config.num_hidden_layers):
            window = config.window(number)
            ring = max_length if window is None or chunk is None else window + chunk - 1
            self.capacities.append(min(ring, max_length))
        self.keys, self.values = [], []
        for capacity in self.capacities:
            shape = (batch, config.num_key_value_heads, capacity, config.head_dim)
            self.keys.append(torch.empty(shape, dtype=dtype, device=device))
            self.values.append(torch.empty(shape, dtype=dtype, device=device))
        self.positions = {
            capacity: torch.full((batch, capacity), NEVER, dtype=torch.long, device=device)
            for capacity in set(self.capacities)
        }
        self.upcoming = torch.zeros(batch, dtype=torch.long, device=device)

    def next_positions(self, batch: int) -> Int[Tensor, "batch"]:
        """The position of each row's next token: one past the last token, padding aside, that the row holds."""
        self.check_rows(batch)
        return self.upcoming

    def check_rows(self, batch: int) -> None:
        """Raises Error for a batch of another size than the cache was made for."""
        if batch != self.batch:
            raise Error(f"cache: {batch} rows arrived, expected {self.batch}: make the cache for as many as the batch")

    def extend(self, key_positions: Int[Tensor, "batch seq"]) -> None:
        """Makes room for a call's tokens in every layer; `write` then fills it. Raises Error where there is none."""
        new = key_positions.shape[1]
        self.check_rows(len(key_positions))
        rings = [capacity < self.max_length for capacity in self.capacities]
        if any(rings) and new > self.chunk:
            raise Error(
                f"cache: {new} tokens arrived in one call, expected at most chunk={self.chunk}: split the prompt"
            )
        if not all(rings) and self.length + new > self.max_length:
            held = f"holds {self.length} of {self.max_length} tokens"
            raise Error(f"cache: {held}, {new} more do not fit: make it with a larger max_length")
        self.start, self.length = self.length, self.length + new
        for capacity, positions in self.positions.items():
            positions[:, self._slots(capacity)] = key_positions
        self.upcoming = torch.maximum(self.upcoming, key_positions.masked_fill(key_positions == NEVER, -1).amax(-1) + 1)

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
        slots, held = self._slots(capacity), min(self.length, capacity)
        self.keys[layer][:, :, slots] = k
        self.values[layer][:, :, slots] = v
        return self.keys[layer][:, :, :held], self.values[layer][:, :, :held]

    def _slots(self, capacity: int) -> slice | Tensor:
        """Where this call's tokens go: the next free slots, which in a ring are those of the oldest tokens."""
        if self.length <= capacity:
            return slice(self.start, self.length)
        return torch.arange(self.start, self.length) % capacity
