"""ps4, last part: what a cache costs, and the loop that writes with it. `forward_and_cache` lists the whole set."""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...cache import KVCache
from ...checkpoints.checkpoint import tokenizer_of
from ...config import Config
from ...generation import prompt_ids, stop_token_ids
from ...model import forward
from ...tiny.evaluate import questions
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, randn, tiny
from .small_models import SET, small_config

# ---- kv_cache_bytes --------------------------------------------------------------------------


def kv_cache_bytes(config: Config, batch: int, length: int, dtype: torch.dtype) -> int:
    windows = [config.window(number) for number in range(config.num_hidden_layers)]
    tokens = sum(length if window is None else min(length, window) for window in windows)
    return 2 * tokens * batch * config.num_key_value_heads * config.head_dim * dtype.itemsize


def sizes(config: Config) -> str:
    heads = f"{config.num_attention_heads} heads of {config.head_dim} on {config.num_key_value_heads}"
    windows = [config.window(number) for number in range(config.num_hidden_layers)]
    return f"hidden_size {config.hidden_size}, {heads}, windows {windows}"


def bytes_case(config: Config, batch: int, length: int, dtype: torch.dtype, note: str = "") -> Case:
    return case(config, batch, length, dtype, note=f"{note}{', ' if note else ''}{sizes(config)}")


def full(config: Config) -> Config:
    return replace(config, layer_types=("full_attention",) * config.num_hidden_layers)


def bytes_without_window(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.int8):
        config = full(small_config(g, num_hidden_layers=randint(g, 3, 6)))
        yield bytes_case(config, randint(g, 2, 6), randint(g, 7, 99), dtype)


def bytes_with_window(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for number in range(4):
        layers, window = randint(g, 3, 6), randint(g, 5, 9)
        config = small_config(g, num_hidden_layers=layers, sliding_window=window)
        yield bytes_case(config, randint(g, 1, 6), randint(g, 20, 99) if number else 4, torch.bfloat16)
    for more in (-1, 0, 1):
        config = small_config(g, num_hidden_layers=3, sliding_window=6)
        yield bytes_case(config, 1, 6 + more, torch.float32, "a length about that of the window")


def bytes_real(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield bytes_case(full(small_config(g, num_hidden_layers=70)), 64, 10**6 + seed, torch.float32, "a large batch")
    yield bytes_case(tiny().config, randint(g, 1, 9), randint(g, 100, 999), torch.float32, "the embedded checkpoint")
    huihui = dict(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=3072,
    )  # fmt: skip
    yield bytes_case(full(small_config(g, **huihui)), 1, randint(g, 9999, 40960), torch.bfloat16, "Huihui-MoE-0.8B-2E")


def counted(change: Callable[[Config], dict[str, Any]], factor: int | float = 1) -> Callable[..., int]:
    """The count for a config that is read wrongly."""

    def count(config: Config, batch: int, length: int, dtype: torch.dtype) -> int:
        return int(kv_cache_bytes(replace(config, **change(config)), batch, length, dtype) * factor)

    return count


def windowed(config: Config) -> dict[str, Any]:
    return {"layer_types": ("sliding_attention",) * config.num_hidden_layers}


def one_tensor_wide(config: Config, batch: int, length: int, dtype: torch.dtype) -> int:
    narrow = config.num_key_value_heads * config.head_dim
    return kv_cache_bytes(config, batch, length, dtype) // narrow * config.hidden_size


KV_CACHE_BYTES = Exercise(
    "kv_cache_bytes",
    SET,
    kv_cache_bytes,
    stages=(
        Stage("full attention", bytes_without_window),
        Stage("layers with a sliding window", bytes_with_window),
        Stage("real configurations", bytes_real),
    ),
    loose=True,
    mistakes=(
        Mistake("You count keys or values alone; both are kept.", counted(lambda config: {}, 0.5)),
        Mistake("You count the query heads; only key/value heads are kept (num_key_value_heads).",
                counted(lambda config: {"num_key_value_heads": config.num_attention_heads})),
        Mistake("A key is not hidden_size wide; it is num_key_value_heads * head_dim.", one_tensor_wide),
        Mistake("These are numbers, not bytes: multiply by `dtype.itemsize`.",
                lambda config, batch, length, dtype: kv_cache_bytes(config, batch, length, torch.int8)),
        Mistake("You take two bytes for every type; ask `dtype.itemsize`.",
                lambda config, batch, length, dtype: kv_cache_bytes(config, batch, length, torch.bfloat16)),
        Mistake("You take four bytes for every type; ask `dtype.itemsize`.",
                lambda config, batch, length, dtype: kv_cache_bytes(config, batch, length, torch.float32)),
        Mistake("You count one row; the batch has as many caches as rows.",
                lambda config, batch, length, dtype: kv_cache_bytes(config, 1, length, dtype)),
        Mistake("A layer with a window keeps no more than its window: `min(length, window)`.",
                counted(lambda config: {"layer_types": ("full_attention",) * config.num_hidden_layers})),
        Mistake("Not every layer has a window: ask `config.window(number)` for each.", counted(windowed)),
    ),
)  # fmt: skip

# ---- greedy ----------------------------------------------------------------------------------


class Reader:
    """What an answer calls as `read`: it remembers what it has read and gives the logits after that."""

    def __init__(self, logits: Callable[[list[int]], Tensor]):
        self.logits = logits

    def __call__(self, new: Sequence[int]) -> Tensor:
        new = [int(token) for token in new]
        if not new:
            raise ValueError("read was given no token")
        return self.logits(new)

    def __repr__(self) -> str:
        return "read"


def drawn_reader(rows: int, key: int) -> Reader:
    """A stand-in for a model: its logits depend on all tokens that it has read, and on their order."""
    seen: list[int] = []

    def logits(new: list[int]) -> Tensor:
        seen.extend(new)
        return randn(torch.Generator().manual_seed(hash((key, *seen)) % 2**62), rows)

    return Reader(logits)


def real_reader() -> Reader:
    """The embedded checkpoint, with room for answers that read things twice."""
    cache = KVCache(tiny().config, 1, 2000, dtype=torch.float32)

    def logits(new: list[int]) -> Tensor:
        return forward(tiny().weights, torch.tensor([new]), tiny().config, cache=cache, logits_to_keep=1)[0, -1]

    return Reader(logits)


def greedy(
    read: Callable[[Sequence[int]], Tensor], prompt: list[int], stop_ids: Set[int], vocabulary: int, most: int
) -> list[int]:
    written: list[int] = []
    new = prompt
    while len(written) < most and not stop_ids & set(written):
        written.append(int(read(new)[:vocabulary].argmax()))
        new = written[-1:]
    return written


def greedy_case(
    g: torch.Generator, stops: int, most: int, unused: int = 4, note: str = "", vocabulary: int | None = None
) -> Case:
    vocabulary, key = vocabulary or randint(g, 9, 14), randint(g, 0, 2**40)
    prompt = randint(g, 0, vocabulary, randint(g, 3, 7)).tolist()
    stop_ids = frozenset(torch.randperm(vocabulary, generator=g)[:stops].tolist())
    return case(drawn_reader(vocabulary + unused, key), prompt, stop_ids, vocabulary, most, note=note)


def greedy_drawn(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(10):
        yield greedy_case(g, randint(g, 1, 3), 15)


def greedy_odd(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield greedy_case(g, 0, 8, note="no stop token")
    yield greedy_case(g, 1, 1, note="one token at most")
    yield greedy_case(g, 0, 2, note="two tokens at most")
    yield greedy_case(g, 0, 130, note="many tokens")
    yield greedy_case(g, 0, 9, vocabulary=700, note="a large vocabulary")
    yield greedy_case(g, 2, 12, unused=0, note="every row stands for a token")
    yield greedy_case(g, 9, 5, note="nearly all tokens stop")
    vocabulary, key = 11, randint(g, 0, 2**40)
    first = greedy(drawn_reader(15, key), [3, 1], set(), vocabulary, 1)
    yield case(drawn_reader(15, key), [3, 1], frozenset(first), vocabulary, 9, note="the first token stops")
    yield case(drawn_reader(15, key), [3, *first, 1], frozenset(first), vocabulary, 9, note="a stop id in the prompt")


def greedy_real(seed: int) -> Iterator[Case]:
    stop_ids, vocabulary = stop_token_ids(tiny()), tokenizer_of(tiny()).vocab_size
    for example in questions("stories", 1, seed=200 + seed):
        prompt = prompt_ids(tiny(), example.messages, thinking=False)
        yield case(real_reader(), prompt, stop_ids, vocabulary, 12, note="a question")


def writing(
    *,
    again: Callable[[list[int], list[int]], list[int]] = lambda prompt, written: written[-1:],
    choose: Callable[[Tensor, int], Tensor] = lambda logits, vocabulary: logits[:vocabulary].argmax(),
    result: Callable[[list[int], list[int], Set[int]], list[int]] = lambda prompt, written, stop_ids: written,
    done: Callable[[list[int], Set[int], int], bool] = lambda written, stops, most: (
        len(written) >= most or bool(stops & set(written))
    ),
) -> Callable[..., list[int]]:
    """The loop, wrong in one of its parts."""

    def write(read: Any, prompt: list[int], stop_ids: Set[int], vocabulary: int, most: int) -> list[int]:
        written: list[int] = []
        new = prompt
        while not done(written, stop_ids, most):
            written.append(int(choose(read(new), vocabulary)))
            new = again(prompt, written)
        return result(prompt, written, stop_ids)

    return write


def without_stop(prompt: list[int], written: list[int], stop_ids: Set[int]) -> list[int]:
    return [token for token in written if token not in stop_ids]


GREEDY = Exercise(
    "greedy",
    SET,
    greedy,
    stages=(
        Stage("a stand-in for a model", greedy_drawn),
        Stage("odd configurations", greedy_odd),
        Stage("the real checkpoint", greedy_real),
    ),
    may=(Reader.__call__,),
    loose=True,
    mistakes=(
        Mistake("You read the whole text again; `read` remembers, so give it the new token alone.",
                writing(again=lambda prompt, written: prompt + written)),
        Mistake("You read all that is written again; `read` remembers, so give it the newest token alone.",
                writing(again=lambda prompt, written: list(written))),
        Mistake("You read the prompt again and again; after the first call give the newest token alone.",
                writing(again=lambda prompt, written: prompt)),
        Mistake("You choose among all rows; those from `vocabulary` on stand for no token.",
                writing(choose=lambda logits, vocabulary: logits.argmax())),
        Mistake("You choose the least likely token.",
                writing(choose=lambda logits, vocabulary: logits[:vocabulary].argmin())),
        Mistake("The stop token is missing: it ends the text and belongs to it.", writing(result=without_stop)),
        Mistake("You return the prompt too; return what was written.",
                writing(result=lambda prompt, written, stop_ids: prompt + written)),
        Mistake("You write on after a stop token.", writing(done=lambda written, stop_ids, most: len(written) >= most)),
        Mistake("You do not keep to `most`: end there even if no stop token came.",
                writing(done=lambda written, stops, most: len(written) >= 99 or bool(stops & set(written)))),
        Mistake("You write one token more than `most`.",
                writing(done=lambda written, stops, most: len(written) > most or bool(stops & set(written)))),
        Mistake("You write one token less than `most`.",
                writing(done=lambda written, stops, most: len(written) + 1 >= most or bool(stops & set(written)))),
        Mistake("A stop id in the prompt ends nothing; look at what is written.",
                lambda read, prompt, stop_ids, vocabulary, most: (
                    [] if stop_ids & set(prompt) else greedy(read, prompt, stop_ids, vocabulary, most))),
    ),
)  # fmt: skip
