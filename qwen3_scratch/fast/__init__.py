"""The model's own steps made fast, each proved equal to its namesake in `model.py`.

`eager` is how every checkpoint reads and writes unless it says otherwise, `dispatch` and `streamed` hold other forms of
single steps; `compiled(checkpoint)` gives the same checkpoint with another way to decode, `int8(checkpoint)` and
`load_int8(name)` one whose weights take half the memory. Uses checkpoints, the cache and the model.

On Linux the environment variable THP_MEM_ALLOC_ENABLE=1, torch's own, puts weights and cache in pages of 2 MB, which
are read 1.15 to 1.3 times as fast; the terminal and the benchmarks set it.
"""

from .compiling import compiled
from .drafts import looking_up
from .eight_bits import int8, load_int8

__all__ = ["compiled", "int8", "load_int8", "looking_up"]
