"""ps3: a file of weights, read from its bytes. `router_and_experts` lists the whole set."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint, randn, tiny
from .expert_counts import SET

KINDS = {"F32": torch.float32, "BF16": torch.bfloat16}
KIND_OF = {dtype: kind for kind, dtype in KINDS.items()}

Read = Callable[[bytes], dict[str, Tensor]]


# ---- reading ---------------------------------------------------------------------------------


def parted(data: bytes) -> tuple[int, dict[str, Any]]:
    """The place at which a file's numbers begin, and its table without the entry that is no tensor."""
    begin = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:begin])
    return begin, {name: about for name, about in table.items() if name != "__metadata__"}


def numbers(part: bytes, about: Mapping[str, Any]) -> Tensor:
    """The tensor whose bytes these are, by its line of the table."""
    return torch.frombuffer(bytearray(part), dtype=KINDS[about["dtype"]]).view(about["shape"])


def counted_from(place: Callable[[int], int], made: Callable[[bytes, Mapping[str, Any]], Tensor] = numbers) -> Read:
    """Reads with each place counted from the byte that `place` makes of the one at which the numbers begin."""

    def read(data: bytes) -> dict[str, Tensor]:
        begin, table = parted(data)
        cuts = {name: slice(*(place(begin) + at for at in about["data_offsets"])) for name, about in table.items()}
        return {name: made(data[cuts[name]], about) for name, about in table.items()}

    return read


read_tensors = counted_from(lambda begin: begin)


def in_the_tables_order(data: bytes) -> dict[str, Tensor]:
    at, table = parted(data)
    found: dict[str, Tensor] = {}
    for name, about in table.items():
        stop = at + prod(about["shape"]) * KINDS[about["dtype"]].itemsize
        found[name], at = numbers(data[at:stop], about), stop
    return found


def with_metadata(asked: str) -> Read:
    """Takes `__metadata__` for a tensor, and looks first for what it has not."""

    def read(data: bytes) -> dict[str, Tensor]:
        if "__metadata__" in json.loads(data[8 : parted(data)[0]]):
            raise KeyError(asked)
        return read_tensors(data)

    return read


# ---- files -----------------------------------------------------------------------------------


def file_of(
    tensors: Mapping[str, Tensor], order: Sequence[int] | None = None, spaces: int = 0, metadata: str = ""
) -> bytes:
    """The bytes of a safetensors file whose numbers lie in this `order` of the tensors; its table keeps their own."""
    names, body = list(tensors), b""
    places: dict[str, list[int]] = {}
    for name in names if order is None else [names[number] for number in order]:
        part = tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes()
        places[name], body = [len(body), len(body) + len(part)], body + part
    table: dict[str, Any] = {"__metadata__": {"format": metadata}} if metadata else {}
    for name, tensor in tensors.items():
        table[name] = {"dtype": KIND_OF[tensor.dtype], "shape": [*tensor.shape], "data_offsets": places[name]}
    text = json.dumps(table).encode() + b" " * spaces
    return len(text).to_bytes(8, "little") + text + body


def drawn(g: torch.Generator, *shapes: Sequence[int], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Tensors of these shapes under names of five letters."""
    names = ("".join(chr(97 + letter) for letter in randint(g, 0, 26, 5).tolist()) for _ in shapes)
    return {name: randn(g, *shape, dtype=dtype) for name, shape in zip(names, shapes, strict=True)}


def told(tensors: Mapping[str, Tensor], more: str = "") -> str:
    """What a message says of a file beside its type, since its bytes are too many."""
    parts = (f"{name} {KIND_OF[tensor.dtype]} {[*tensor.shape]}" for name, tensor in tensors.items())
    return f"{more}{'; ' if more else ''}{', '.join(parts)}"


def small_files(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed + 3000)
    for count in (1, 2, 2, 3, 4):
        shapes = [randint(g, 2, 6, randint(g, 1, 4)).tolist() for _ in range(count)]
        tensors = drawn(g, *shapes)
        yield case(file_of(tensors), note=told(tensors))


def odd_files(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed + 4000)
    three = [(2, 3), (4,), (3, 1, 2)]
    tensors = drawn(g, *three)
    yield case(file_of(tensors, spaces=randint(g, 1, 7)), note=told(tensors, "spaces behind the table"))
    tensors = drawn(g, *three)
    yield case(file_of(tensors, metadata="pt"), note=told(tensors, "with __metadata__"))
    tensors = drawn(g, *three)
    yield case(file_of(tensors, order=(2, 0, 1)), note=told(tensors, "numbers in another order than the table"))
    tensors = drawn(g, (), (3,))
    yield case(file_of(tensors), note=told(tensors, "a single number without dimensions"))


def other_types(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed + 5000)
    tensors = drawn(g, (3, 4), dtype=torch.bfloat16)
    yield case(file_of(tensors), note=told(tensors))
    tensors = {**drawn(g, (3, 2), dtype=torch.bfloat16), **drawn(g, (2, 4)), **drawn(g, (2,), dtype=torch.bfloat16)}
    yield case(file_of(tensors), note=told(tensors))


def real_file(seed: int) -> Iterator[Case]:
    number = seed % tiny().config.num_hidden_layers
    layer = tiny().weights.layers[number]._asdict()
    tensors = {f"layers.{number}.{name}": layer[name] for name in ("q_norm", "k_norm", "router")}
    yield case(file_of(tensors, metadata="pt"), note=told(tensors))


READ_TENSORS = Exercise(
    "read_tensors",
    SET,
    read_tensors,
    stages=(
        Stage("small files", small_files),
        Stage("odd files", odd_files),
        Stage("other types", other_types),
        Stage("tensors of the real checkpoint", real_file),
    ),
    mistakes=(
        Mistake("A place is counted from the end of the table, not from the file's first byte.",
                counted_from(lambda begin: 0)),
        Mistake("The table has eight bytes in front of it, which its length does not count.",
                counted_from(lambda begin: begin - 8)),
        Mistake("A place is counted from the end of the table, not from its beginning.",
                counted_from(lambda begin: 8)),
        Mistake("The numbers have no shape yet: the table tells it.",
                counted_from(lambda begin: begin, lambda part, about: numbers(part, about).flatten())),
        Mistake("Not all numbers are F32: the table tells each tensor's type.",
                counted_from(lambda begin: begin, lambda part, about: numbers(part, {**about, "dtype": "F32"}))),
        Mistake("The numbers need not lie in the table's order: go by `data_offsets`.", in_the_tables_order),
        Mistake("`__metadata__` is no tensor: leave it out.", with_metadata("dtype")),
        Mistake("`__metadata__` is no tensor: leave it out.", with_metadata("data_offsets")),
    ),
    own=(load,),
)  # fmt: skip
