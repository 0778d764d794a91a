"""The live explorer: one HTML file in which a checkpoint runs in the browser, without server and without network.

`write(checkpoint, path)` makes it. `packing` rounds the weights, `reading` says how texts and chats are read,
`measured` what experts are for, `writing` puts all into one file; `page/` holds the page, its model in JavaScript.

Uses checkpoints, fast, generation, tracing, tiny and the mistakes and routes of inside.
"""

from .writing import write

__all__ = ["write"]
