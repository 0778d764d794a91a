"""Training by the same pure functions: the losses, one step, and a loop that can stop and resume."""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from tqdm import tqdm

from ..checkpoints.saving import whole, writing
from ..checkpoints.weights import init_weights, tensor_tree
from ..config import Config
from ..errors import Error, of_kind, shown, whole_number
from ..model import Ops, Route, Weights, embed, hidden_states, within_texts
from ..trust.arguments import MASK, any_true, check_keep, check_tensor
from ..trust.memory import telling_too_little_memory

LOGITS = Float[Tensor, "tokens experts"]


def load_balancing_loss(
    router_logits: Sequence[Float[Tensor, "tokens experts"]],
    num_experts: int,
    top_k: int,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, ""]:
    """experts * sum over experts of (choices per token) * (mean probability), over the tokens of all given layers.

    Evenly used experts give `top_k`; one expert for all gives up to `experts`. `attention_mask` [batch, seq] leaves
    padding out. Raises Error for no layer, layers of unequal shape or another number of experts, a mask of another
    shape or of no token at all. Fedus et al. 2021, arXiv:2101.03961, equations 4 to 6.
    """
    where, layers = "load_balancing_loss", router_logits
    num_experts, top_k = whole_number(where, "num_experts", num_experts), whole_number(where, "top_k", top_k)
    sizes = {"experts": num_experts}
    if not isinstance(layers, list | tuple) or not layers:
        raise Error(f"{where}: router_logits is {shown(layers)}, expected a list of one tensor a layer, Route.logits")
    for number, layer in enumerate(layers):
        check_tensor(where, f"router_logits[{number}]", layer, LOGITS, sizes)
    if top_k > num_experts:
        raise Error(f"{where}: top_k is {top_k}, expected 1 to {num_experts}, the number of experts: mend the argument")
    keep = torch.ones(sizes["tokens"], dtype=torch.bool, device=layers[0].device)
    if attention_mask is not None:
        check_tensor(where, "attention_mask", attention_mask, MASK, {})
        check_keep(where, attention_mask)
        keep = attention_mask.flatten().to(keep.device).bool()
    if len(keep) != sizes["tokens"]:
        found = f"attention_mask has {len(keep)} entries"
        raise Error(
            f"{where}: {found}, expected {sizes['tokens']}, one for each row of router_logits: give the batch's"
        )
    if any_true(~keep.any()):
        raise Error(f"{where}: attention_mask keeps no token, expected at least one: leave such a batch out")
    wide = torch.promote_types(layers[0].dtype, torch.float32)
    probabilities = torch.cat(layers).softmax(dim=-1, dtype=wide)
    chosen = F.one_hot(probabilities.topk(top_k, dim=-1).indices, num_experts).sum(1).to(probabilities.dtype)
    kept = keep.to(probabilities.dtype).repeat(len(layers))
    share, probability = kept @ chosen / kept.sum(), kept @ probabilities / kept.sum()
    return num_experts * (share * probability).sum()


def gradients(loss: Callable[[Weights], Float[Tensor, ""]], weights: Weights) -> Weights:
    """torch.func.grad of a loss by all weights, as a tree; what the model lacks is None there, too.

    torch.func itself refuses a tree of which a leaf is None.
    """
    leaves, form = tree_flatten(weights)

    def filled(tensors: list[Tensor]) -> Weights:
        rest = iter(tensors)
        return tree_unflatten([leaf if leaf is None else next(rest) for leaf in leaves], form)

    found = torch.func.grad(lambda tensors: loss(filled(tensors)))([leaf for leaf in leaves if leaf is not None])
    return filled(found)


class Batch(NamedTuple):
    """Rows of token ids into which whole chats are packed one after the other; each sees only itself."""

    token_ids: Int[Tensor, "rows seq"]
    positions: Int[Tensor, "rows seq"]  # counted from the start of each chat
    chat: Int[Tensor, "rows seq"]  # number of the chat within its row, -1 for padding
    loss_weights: Float[Tensor, "rows seq"]  # how much the token that stands here counts as a target


class Losses(NamedTuple):
    total: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]  # nats per target, weighted
    balance: Float[Tensor, ""]  # mean over layers; top_k at its best


def losses(weights: Weights, batch: Batch, config: Config, balance_weight: float, ops: Ops = Ops()) -> Losses:
    """Weighted cross-entropy of the next token plus the load-balancing loss, taken layer by layer.

    The reference pools all layers before it counts, so that one layer's favourite expert can hide behind another
    layer's; here each layer is balanced by itself. The head is applied only where a target counts.
    """
    router_logits = []

    def noting_route(*args: Any) -> Route:
        route = ops.route(*args)
        router_logits.append(route.logits)
        return route

    keep, noting = batch.chat >= 0, ops._replace(route=noting_route, mask=within_texts(ops.mask, batch.chat))
    x = hidden_states(weights, embed(batch.token_ids, weights.embed_tokens), config, keep, batch.positions, ops=noting)
    target, counts = batch.token_ids[:, 1:], batch.loss_weights[:, 1:]
    chosen = counts > 0
    head = weights.embed_tokens if weights.lm_head is None else weights.lm_head
    each = F.cross_entropy(F.linear(x[:, :-1][chosen], head).float(), target[chosen], reduction="none")
    cross_entropy = (each * counts[chosen]).sum() / counts[chosen].sum()
    top_k, experts = config.num_experts_per_tok, config.num_experts
    balances = [load_balancing_loss([layer], experts, top_k, keep) for layer in router_logits]
    balance = torch.stack(balances).mean() if balances else cross_entropy.new_tensor(float(top_k))
    return Losses(cross_entropy + balance_weight * balance, cross_entropy, balance)


def kept_for_backward(weights: Weights, batch: Batch, config: Config) -> int:
    """Bytes of the activations: what the losses of a batch keep for the backward pass, beside the weights."""
    sizes: dict[int, int] = {}  # by where they lie, since several steps may keep the same numbers

    def keep(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = losses(weights, batch, config, balance_weight=0.0)  # so that nothing is freed while it is counted
    own = {tensor.untyped_storage().data_ptr() for tensor in tensor_tree(weights)}
    del held
    return sum(size for place, size in sizes.items() if place not in own)


class Plan(NamedTuple):
    """How long and how fast to train. The learning rate warms up, stays, and falls to zero over the last part."""

    steps: int
    learning_rate: float = 2e-3
    warmup: int = 100  # steps
    decay: float = 0.3  # share of all steps
    weight_decay: float = 0.05  # of matrices; norms and biases are left alone
    balance_weight: float = 0.01
    max_grad_norm: float = 1.0
    save_every: int = 250  # steps

    def rate(self, step: int) -> float:
        """The learning rate of one step, counted from 0."""
        falling = (self.steps - step) / max(1.0, self.steps * self.decay)
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup), falling)


def check_plan(plan: Plan) -> None:
    """Raises Error for a number of another kind or range than the plan's: it would show after hours, or never."""
    for name, kind in Plan.__annotations__.items():
        found, where = getattr(of_kind("train", "plan", plan, Plan), name), f"plan.{name}"
        if name == "warmup":
            whole_number("train", where, found, 0)
        elif kind is int:
            whole_number("train", where, found)
        elif not isinstance(found, int | float) or isinstance(found, bool) or not 0 <= found < math.inf:
            raise Error(f"train: {where} is {shown(found)}, expected a finite number, 0 or more: mend the plan")
    if plan.decay > 1:
        raise Error(f"train: plan.decay is {plan.decay}, expected 0 to 1, a share of all steps: mend the plan")


def make_optimizer(weights: Weights, plan: Plan) -> torch.optim.AdamW:
    tensors = tensor_tree(weights)
    matrices, others = [t for t in tensors if t.ndim > 1], [t for t in tensors if t.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98), fused=True)


def train_step(
    weights: Weights, optimizer: torch.optim.Optimizer, batch: Batch, config: Config, plan: Plan, step: int,
    ops: Ops = Ops(),
) -> Losses:  # fmt: skip
    """One update of the weights, in place. The tensors of the tree are leaves that require gradients."""
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(step)
    found = losses(weights, batch, config, plan.balance_weight, ops)
    found.total.backward()
    torch.nn.utils.clip_grad_norm_(tensor_tree(weights), plan.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Losses(*(value.detach() for value in found))


class Moment(NamedTuple):
    """Where a training run stands: everything that the next step depends on, and what was measured so far."""

    step: int
    weights: Weights
    optimizer: torch.optim.Optimizer
    history: list[dict[str, float]]


def train(
    config: Config, plan: Plan, batch_of: Callable[[int], Batch], folder: Path, *, seed: int = 0,
    measure: Callable[[Weights, int], dict[str, float]] | None = None,
) -> Moment:  # fmt: skip
    """Trains on the CPU from random weights, or from where an earlier call in `folder` stopped, to the end of the plan.

    `batch_of(step)` depends on nothing but its argument, so that a resumed run is bit for bit the run that was never
    stopped. Every `save_every` steps the moment is saved and `measure(weights, step)` is added to the history.

    Raises:
        Error: a loss that is no number, too little memory for a step, a disk that is full, or a saved moment of
            another model, plan or seed. What was saved before stays, and the same call goes on from there.
    """
    check_plan(plan)
    moment = resume(config, plan, Path(folder), seed=seed) or start(config, plan, seed)
    weights, optimizer, history = moment.weights, moment.optimizer, moment.history
    with tqdm(total=plan.steps, initial=moment.step, unit="step", desc="training") as bar:
        for step in range(moment.step, plan.steps):
            with telling_too_little_memory(f"training: step {step}", "make batches of fewer or shorter rows"):
                found = train_step(weights, optimizer, batch_of(step), config, plan, step)
            loss = found.cross_entropy.item()
            if not math.isfinite(loss):
                raise Error(f"training: the loss is {loss} at step {step}, expected a number: lower the learning rate")
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", balance=f"{found.balance.item():.2f}")
            saving = (step + 1) % plan.save_every == 0 or step + 1 == plan.steps
            if step % 10 == 9 or saving:
                history.append({"step": step + 1, "loss": loss, "balance": found.balance.item()})
            if saving:
                history[-1] |= measure(weights, step + 1) if measure else {}
                moment = Moment(step + 1, weights, optimizer, history)
                save_moment(moment, Path(folder), run_of(config, plan, seed))
    return moment


def start(config: Config, plan: Plan, seed: int) -> Moment:
    weights = trainable(init_weights(config, seed=seed, dtype=torch.float32))
    return Moment(0, weights, make_optimizer(weights, plan), [])


def trainable(weights: Weights) -> Weights:
    """A copy of the weights that asks for gradients."""
    return tree_map_only(Tensor, lambda tensor: tensor.detach().clone().requires_grad_(), weights)


def run_of(config: Config, plan: Plan, seed: int) -> dict[str, Any]:
    """What a run was begun with, as JSON gives it back: steps under another plan or seed would make a hybrid."""
    return json.loads(json.dumps({"config": config.to_dict(), **plan._asdict(), "seed": seed}))


def save_moment(moment: Moment, folder: Path, run: dict[str, Any]) -> None:
    """One safetensors file: weights and optimiser state, and in its header the rest; whole or not there."""
    tensors: dict[str, Tensor] = {}
    for number, tensor in enumerate(tensor_tree(moment.weights)):
        state = moment.optimizer.state[tensor]
        tensors |= {f"{number}.weight": tensor.detach()} | {f"{number}.{name}": state[name] for name in STATE}
    header = {"step": str(moment.step), "run": json.dumps(run), "history": json.dumps(moment.history)}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / MOMENT) as partial:
        save_file(tensors, partial, header)


def resume(config: Config, plan: Plan, folder: Path, *, seed: int = 0) -> Moment | None:
    """The moment that an earlier run saved in `folder`, or None. Raises Error if it is of another run, or damaged."""
    path = folder / MOMENT
    if not path.exists():
        return None
    moment, run = start(config, plan, seed), run_of(config, plan, seed)
    try:
        with safe_open(path, framework="pt") as opened, torch.no_grad():
            header = opened.metadata() or {}
            step, history, saved = int(header["step"]), json.loads(header["history"]), json.loads(header["run"])
            others = [name for name in run if saved[name] != run[name]]
            for number, tensor in enumerate(tensor_tree(moment.weights) if not others else ()):
                # Copies: what a file gives lies in the file, and goes when that is cut off.
                state = {name: opened.get_tensor(f"{number}.{name}").clone() for name in ("weight", *STATE)}
                if any(found.shape != (() if name == "step" else tensor.shape) for name, found in state.items()):
                    raise ValueError(f"a tensor of weight {number} has another shape")
                tensor.copy_(state.pop("weight"))
                moment.optimizer.state[tensor] = state
    except UNREADABLE as error:
        raise Error(f"{path}: is damaged ({error}), expected a saved run: remove the folder to start anew") from None
    if "config" in others:
        raise Error(f"{path}: is of another config, expected this one's run: remove the folder to start anew")
    if others:
        was, now = (", ".join(f"{name}={each[name]}" for name in others) for each in (saved, run))
        advice = "ask for the same again, or remove the folder to start anew"
        raise Error(f"{path}: is of a run with {was}, expected {now}: {advice}")
    return moment._replace(step=step, history=history)


def saved_step(folder: Path) -> int:
    """How many steps the run in `folder` would not have to repeat: 0 where nothing readable was saved."""
    with suppress(*UNREADABLE), safe_open(folder / MOMENT, framework="pt") as opened:
        return int(opened.metadata()["step"])
    return 0


MOMENT = "moment.safetensors"
STATE = ("step", "exp_avg", "exp_avg_sq")  # what AdamW remembers of each tensor
UNREADABLE = (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError)
