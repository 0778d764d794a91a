"""A name becomes a folder: the embedded checkpoint, one of your own, or one from the hub, whole and verified.

`find` tells which of them it is, `download` brings what the cache lacks and holds it against the hub's hashes,
`sentences` says what went wrong. Uses errors and, once a hub id is asked for, huggingface_hub.
"""

from .find import chosen, embedded_folder, find_folder, find_local

__all__ = ["chosen", "embedded_folder", "find_folder", "find_local"]
