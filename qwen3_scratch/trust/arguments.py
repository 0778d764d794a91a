"""The arguments of a function held against its signature, before it computes anything."""

import functools
import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from numbers import Real
from types import NoneType
from typing import Any, ParamSpec, TypeVar, get_args, get_origin

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._pytree import tree_leaves

from ..errors import Error, one_line, shown, true_or_false, whole_number

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def checked(
    function: Callable[Arguments, Result], check: Callable[[dict[str, Any]], None] | None = None
) -> Callable[Arguments, Result]:
    """The same function, which first holds its arguments against its signature; Error names the first that is wrong.

    A tensor is of the kind and has the sizes that its annotation says, and sizes of one name are equal in all of them.
    A whole number is a count, at least 1; any other is finite and not negative. No tensor's values are looked at, and
    nothing is asked while torch compiles or exports. Where another `check` is given, it takes the signature's place.
    """
    where = function.__name__
    kinds = {name: without_none(each.annotation) for name, each in inspect.signature(function).parameters.items()}

    @functools.wraps(function)
    def first_checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        given: dict[str, Any] = dict(zip(kinds, args, strict=False)) | kwargs
        sizes: dict[str, Any] = {}
        if torch.compiler.is_compiling() or len(given) < len(args) + len(kwargs):  # too many: Python itself says so
            return function(*args, **kwargs)
        if check is not None:
            check(given)
        for name in kinds if check is None else ():
            if name in given:
                given[name] = fitting(where, name, given[name], *kinds[name], sizes)
        try:
            return function(**given)  # type: ignore[call-arg]
        except (torch.OutOfMemoryError, NotImplementedError):
            raise
        except (IndexError, RuntimeError) as error:
            leaves = {name: tree_leaves(each)[:1] for name, each in given.items()}
            tensors = {name: each for name, (each,) in leaves.items() if isinstance(each, Tensor)}
            found = ", ".join(f"{name} is {each.dtype} on {each.device}" for name, each in tensors.items())
            if len({(each.dtype, each.device) for each in tensors.values() if each.is_floating_point()}) > 1:
                raise Error(f"{where}: {found}, expected one type and one device: cast or move one of them") from None
            if any(is_functorch_wrapped_tensor(each) for each in tensors.values()):
                found = f"torch.func transforms it, and a step asks for values ({one_line(str(error).splitlines()[0])})"
                advice = "give one that asks for none, as ops=Ops(moe=fast.dispatch.moe_gathered)"
                raise Error(f"{where}: {found}, expected shapes alone: {advice}") from None
            raise Error(f"{where}: {one_line(error)}, expected arguments that go together: mend them") from error

    first_checked.__module__ = __name__.partition(".")[0]  # where it is to be found by this name
    return first_checked


def without_none(kind: Any) -> tuple[Any, bool]:
    """An annotation, and whether None does as well."""
    kinds = [each for each in get_args(kind) if each is not NoneType]
    return (kinds[0], True) if NoneType in get_args(kind) else (kind, False)


def fitting(where: str, name: str, found: Any, kind: Any, optional: bool, sizes: dict[str, Any]) -> Any:
    """An argument, a number as Python's own. Raises Error where it is not what the annotation says."""
    if optional and found is None:
        return None
    if hasattr(kind, "dim_str"):
        check_tensor(where, name, found, kind, sizes)
        if found.is_meta != sizes.setdefault("meta", found.is_meta):  # torch would say nothing of these
            raise Error(
                f"{where}: {name} is on {found.device}, expected one type and one device: move it to the others'"
            )
    elif kind is int:
        return whole_number(where, name, found)
    elif kind is bool:
        return true_or_false(where, name, found)
    elif kind is float:
        number = found.item() if isinstance(found, Tensor) and not found.is_meta and found.ndim == 0 else found
        if not isinstance(number, Real) or isinstance(number, bool) or not 0 <= float(number) < math.inf:
            raise Error(f"{where}: {name} is {shown(found)}, expected a finite number, 0 or more: mend the argument")
        return number
    elif get_origin(kind) is tuple:
        if not isinstance(found, tuple) or len(found) != len(get_args(kind)):
            expected = f"expected a tuple of {len(get_args(kind))}"
            raise Error(f"{where}: {name} is {shown(found)}, {expected}: mend the argument")
        for number, (each, its) in enumerate(zip(found, get_args(kind), strict=True)):
            fitting(where, f"{name}[{number}]", each, *without_none(its), sizes)
    elif isinstance(kind, type) and "__annotations__" in vars(kind):  # by its fields: the class may be a copy's
        fields = [field for field in vars(kind)["__annotations__"] if not field.startswith("_")]
        if not all(hasattr(found, field) for field in fields):
            raise Error(f"{where}: {name} is a {type(found).__name__}, expected a {kind.__name__}: mend the argument")
        for field in fields if issubclass(kind, tuple) else ():
            its = without_none(vars(kind)["__annotations__"][field])
            fitting(where, f"{name}.{field}", getattr(found, field), *its, sizes)
    elif get_origin(kind) is not None and not callable(found):
        raise Error(f"{where}: {name} is {shown(found)}, expected a function: mend the argument")
    return found


@functools.cache
def form(kind: Any) -> tuple[str, frozenset[torch.dtype] | None, list[str]]:
    """What an annotation of jaxtyping asks for: in words, as types, as named sizes."""
    named = kind.dim_str.split()
    any_type = not isinstance(kind.dtypes, tuple)
    types = None if any_type else frozenset(getattr(torch, name) for name in kind.dtypes if hasattr(torch, name))
    word = "" if any_type else kind.__name__.partition("[")[0].lower() + " "
    return f"expected a {word}tensor [{', '.join(named)}]", types, named


def check_tensor(where: str, name: str, found: Any, kind: Any, sizes: dict[str, Any]) -> None:
    """Raises Error for another kind or shape than the annotation's; `sizes` are those that earlier tensors had."""
    expected, types, named = form(kind)
    if not isinstance(found, Tensor):
        raise Error(f"{where}: {name} is {shown(found)}, {expected}: mend the argument")
    if types is not None and found.dtype not in types:
        raise Error(f"{where}: {name} is of type {found.dtype}, {expected}: cast it")
    shape: list[Any] = [*found.shape]
    free = next((place for place, size in enumerate(named) if size[0] == "*"), None)
    if free is not None and len(shape) >= len(named) - 1:  # so many sizes as the others leave
        end = len(shape) - (len(named) - free - 1)
        shape[free:end] = [tuple(shape[free:end])]
    known = {size: int(size) if size.isdigit() else sizes.get(size.lstrip("*#")) for size in named}
    if len(shape) != len(named) or not all(
        known[size] in (None, own) or (size[0] == "#" and own == 1) for size, own in zip(named, shape, strict=True)
    ):
        listed = ", ".join(size if known[size] is None else shown(known[size]) for size in named)
        raise Error(f"{where}: {name} has shape {[*found.shape]}, expected [{listed}] ({', '.join(named)})")
    for size, own in zip(named, shape, strict=True):
        if size[0] != "#" or own != 1:
            sizes[size.lstrip("*#")] = own


def check_device(device: torch.device | str | None) -> None:
    """Raises Error for a device that this machine has not, or that holds nothing."""
    try:
        # A meta tensor holds nothing, and says so here; MPS has no float64, which tokens are drawn in.
        torch.empty(0, dtype=torch.float64, device=device).tolist()
    except (RuntimeError, AssertionError, TypeError, ValueError, ImportError) as error:
        said = one_line(str(error).splitlines()[0])
        raise Error(f"device is {shown(device)}, expected one that this machine has ({said}): name another") from None


# ---- the arguments of forward ----------------------------------------------------------------

TOKEN_IDS, EMBEDS = Int[Tensor, "batch seq"], Float[Tensor, "batch seq hidden"]
POSITIONS, MASK = Int[Tensor, "#batch seq"], Shaped[Tensor, "#batch seq"]


def any_true(found: Tensor) -> bool:
    """Whether any is, where that can be asked: a GPU would have to be waited for, a compiler or vmap has no answer."""
    if found.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    with suppress(RuntimeError):
        return bool(found.any())
    return False


def check_token_ids(where: str, token_ids: Int[Tensor, "*shape"], rows: int) -> None:
    """Raises Error for an id that names no row of the embedding; on a CPU only."""
    if any_true(token_ids.clamp(0, rows - 1) != token_ids):
        found = f"token id {next(each for each in token_ids.flatten().tolist() if not 0 <= each < rows)}"
        raise Error(f"{where}: {found} in token_ids, expected 0 to {rows - 1}: check which tokenizer made it")


def check_forward(given: Any) -> None:
    """Raises Error for the first argument of `forward` that does not go with the others; values on a CPU only."""
    names = "weights", "token_ids", "config", "attention_mask", "positions", "cache", "inputs_embeds"
    weights, token_ids, config, attention_mask, positions, cache, embeds = (given.get(name) for name in names)
    whole_number("forward", "logits_to_keep", given.get("logits_to_keep", 0), 0)
    wanted = {"weights": (weights, "layers", "Weights"), "config": (config, "layer_types", "a Config")}
    wanted |= {} if cache is None else {"cache": (cache, "key_positions", "a KVCache")}
    wanted |= {"ops": (given["ops"], "attention", "an Ops")} if "ops" in given else {}
    for name, (found, field, kind) in wanted.items():
        if not hasattr(found, field):
            raise Error(f"forward: {name} is a {type(found).__name__}, expected {kind}: mend the argument")
    for name, step in given["ops"]._asdict().items() if "ops" in given else ():
        if not callable(step) and (name, step) != ("reduce", None):
            raise Error(f"forward: ops.{name} is {shown(step)}, expected a function: leave it out or write one")
    if (token_ids is None) == (embeds is None):
        raise Error("forward: expected exactly one of token_ids and inputs_embeds: leave one of them None")
    check_fits("forward", weights, config)
    if not isinstance(weights.embed_tokens, Tensor) and "ops" not in given:
        found = f"forward: weights hold matrices as {type(weights.embed_tokens).__name__}, not as tensors"
        raise Error(f"{found}, expected the steps that read them: give ops=checkpoint.ops")
    sizes: dict[str, Any] = {"hidden": config.hidden_size}
    if embeds is None:
        check_tensor("forward", "token_ids", token_ids, TOKEN_IDS, sizes)
        check_token_ids("forward", token_ids, config.vocab_size)
    else:
        check_tensor("forward", "inputs_embeds", embeds, EMBEDS, sizes)
        if embeds.dtype != weights.embed_tokens.dtype:
            expected = f"{weights.embed_tokens.dtype}, the type of the weights"
            raise Error(f"forward: inputs_embeds is of type {embeds.dtype}, expected {expected}: cast it")
    if 0 in (sizes["batch"], sizes["seq"]):
        shape = [sizes["batch"], sizes["seq"]]
        raise Error(f"forward: token_ids has shape {shape}, expected [batch, seq] with at least one token")
    if positions is not None:
        check_tensor("forward", "positions", positions, POSITIONS, sizes)
    if attention_mask is not None:
        check_tensor("forward", "attention_mask", attention_mask, MASK, sizes)
        check_keep("forward", attention_mask, slides="sliding_attention" in config.layer_types)
    if hasattr(cache, "check"):
        cache.check(config, sizes["batch"], weights.embed_tokens)


def check_fits(where: str, weights: Any, config: Any) -> None:
    """Raises Error for another number of layers, or other widths, heads, biases or experts, than the config says."""
    layers, width, advice = len(weights.layers), weights.embed_tokens.shape[1], "take both from one model"
    if (layers, width) != (config.num_hidden_layers, config.hidden_size):
        expected = f"{config.num_hidden_layers} of {config.hidden_size}, as the config says"
        raise Error(f"{where}: weights have {layers} layers of {width} numbers, expected {expected}: {advice}")
    q_rows, kv_rows = (count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads))
    for number, layer in enumerate(weights.layers):
        experts = config.num_experts * config.is_sparse(number)
        pairs = {
            "rows in q_proj": (layer.q_proj.shape[0], q_rows),
            "rows in k_proj": (layer.k_proj.shape[0], kv_rows),
            "biases of attention": (0 if layer.q_bias is None else q_rows, q_rows * config.attention_bias),
            "experts": (0 if layer.router is None else len(layer.router), experts),
        }
        for name, (found, expected) in pairs.items():
            if found != expected:
                what = f"layer {number} of the weights has {found} {name}"
                raise Error(f"{where}: {what}, expected {expected}, as the config says: {advice}")


def check_keep(where: str, attention_mask: Shaped[Tensor, "batch seq"], *, slides: bool = False) -> None:
    """Raises Error for what is no mask of tokens, and where a sliding window would have to reach across padding."""
    keep = attention_mask.bool()
    if attention_mask.dtype != torch.bool and any_true(attention_mask != keep):
        raise Error(f"{where}: attention_mask holds other values, expected 1 (or true) for tokens and 0 for padding")
    begins = keep[:, 1:] & ~keep[:, :-1]
    if slides and any_true(begins.sum(-1) + keep[:, 0] > 1):
        reason = "a sliding window counts tokens, and the reference's padding, too"
        raise Error(f"{where}: attention_mask has padding between tokens, expected it at the ends, since {reason}")
