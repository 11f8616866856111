"""A cell that somebody has changed: hooks, wrappers, parametrisations and sharding act on it as on any module."""

from __future__ import annotations

import copy
import math
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, parametrize, prune

from ldeq import LDEQ
from ldeq.models.cell import Injection
from ldeq.models.sequence import WarmStarts


def small_model(**overrides: Any) -> LDEQ:
    """A cell that contracts, so that residuals of rounding stay what they are."""
    torch.manual_seed(0)
    options = {
        "landmarks": 5,
        "image_size": 16,
        "depth": 1,
        "max_iter": 8,
        "backward_max_iter": 8,
        "tol": 1e-6,
        "backward_tol": 1e-6,
    }
    model = LDEQ.tiny(**(options | overrides))
    with torch.no_grad():
        model.get_submodule("deq.cell.mix.0").get_parameter("weight")[:, :5] *= 0.03
    return model


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class LoRA(nn.Module):
    """W v + B A v, as wrappers for low-rank adaptation do it; B starts at zero or, for tests, not."""

    def __init__(self, base: nn.Conv2d, rank: int = 2, scale: float = 0.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Conv2d(base.in_channels, rank, base.kernel_size, padding=base.padding, bias=False)
        self.b = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        nn.init.constant_(self.b.weight, scale)

    def forward(self, v: Tensor) -> Tensor:
        return self.base(v) + self.b(self.a(v))


def with_lora(model: LDEQ, name: str, scale: float = 0.0) -> LDEQ:
    parent, _, child = name.rpartition(".")
    module = model.cell.get_submodule(name)
    assert isinstance(module, nn.Conv2d)
    setattr(model.cell.get_submodule(parent), child, LoRA(module, scale=scale))
    return model


CONVOLUTIONS = ["mix.0", "hourglass.fuse.0", "hourglass.inner.0", "head"]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_lora_around_a_convolution_acts_and_trains(name: str) -> None:
    """The prepared cell read the weights past the wrapper, which had no effect and no gradient."""
    plain = small_model()
    untouched = with_lora(copy.deepcopy(plain), name)
    torch.testing.assert_close(untouched(images()).landmarks, plain(images()).landmarks, rtol=0, atol=1e-5)
    adapted = with_lora(copy.deepcopy(plain), name, scale=0.05).requires_grad_(False)
    assert (adapted(images()).z - plain(images()).z).abs().max() > 1e-3
    wrapper = adapted.cell.get_submodule(name).requires_grad_()
    optimizer = torch.optim.Adam(wrapper.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = (adapted(images()).landmarks - 0.3).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("kind", ["forward", "forward pre", "full backward"])
@pytest.mark.parametrize("name", ["", "hourglass", "hourglass.skip.0"])
def test_hooks_of_the_cell_and_of_its_parts_are_called(kind: str, name: str) -> None:
    model = small_model(max_iter=3, tol=0.0)
    calls: list[str] = []
    module = model.cell.get_submodule(name)
    register = {
        "forward": module.register_forward_hook,
        "forward pre": module.register_forward_pre_hook,
        "full backward": module.register_full_backward_hook,
    }[kind]
    register(lambda *_: calls.append(kind))  # type: ignore[operator]
    model.stem(images())
    assert not calls
    model(images()).landmarks.sum().backward()
    # Three evaluations of the solve and the tracked one; backward passes through the tracked one for every product.
    assert len(calls) >= 4
    if kind != "full backward":
        assert len(calls) == 4


def test_a_forward_hook_that_returns_a_value_replaces_the_output() -> None:
    model = small_model()
    before = model(images()).landmarks
    handle = model.cell.hourglass.register_forward_hook(lambda module, args, output: 0.5 * output)
    assert (model(images()).landmarks - before).abs().max() > 1e-3
    handle.remove()
    assert torch.equal(model(images()).landmarks, before)


def halve(module: nn.Module) -> None:
    class Half(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return 0.5 * w

    parametrize.register_parametrization(module, "weight", Half())


def replace_forward(module: nn.Module) -> None:
    """As `accelerate` attaches its hooks."""
    old = module.forward
    module.forward = lambda v: 0.5 * old(v)  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "change",
    [
        halve,
        lambda module: parametrizations.weight_norm(module).parametrizations.weight.original0.data.mul_(0.5),
        parametrizations.spectral_norm,
        lambda module: prune.l1_unstructured(module, "weight", amount=0.5),
        replace_forward,
    ],
    ids=["parametrisation", "weight norm", "spectral norm", "pruning", "a forward of the instance"],
)
def test_a_changed_weight_is_the_one_that_is_used(change: Callable[[nn.Module], object]) -> None:
    model = small_model()
    before = model(images()).z
    change(model.cell.get_submodule("hourglass.down.0"))
    assert not model.cell.is_plain
    out = model(images())
    assert (out.z - before).abs().max() > 1e-4
    out.landmarks.sum().backward()
    assert all(p.grad is not None for p in model.cell.parameters())


def wrap_around(block: nn.Module) -> None:
    """As it is done to models whose pictures shall tile."""
    conv = block[0]  # type: ignore[index]
    conv.padding_mode = "circular"
    conv._reversed_padding_repeated_twice = [1, 1, 1, 1]


def dilate(block: nn.Module) -> None:
    conv = block[0]  # type: ignore[index]
    conv.dilation = conv.padding = (2, 2)


@pytest.mark.parametrize(
    "change",
    [
        wrap_around,
        dilate,
        lambda block: setattr(block[1], "negative_slope", 0.5),
        lambda block: setattr(block[2], "eps", 1.0),
        lambda block: block.append(nn.LeakyReLU(0.1)),
    ],
    ids=["padding", "dilation", "slope", "eps", "one more layer"],
)
def test_a_changed_setting_of_a_layer_is_the_one_that_is_used(change: Callable[[nn.Module], object]) -> None:
    model = small_model()
    before = model(images()).z
    change(model.cell.get_submodule("hourglass.down"))
    assert (model(images()).z - before).abs().max() > 1e-4


def test_a_weight_of_another_tensor_type_is_not_read_past_its_type() -> None:
    """Quantised weights are tensors of their own type in the place of the parameter."""

    class Quantised(Tensor):
        pass

    model = small_model()
    assert model.cell.is_plain
    conv = model.cell.get_submodule("mix.0")
    conv.weight = nn.Parameter(conv.get_parameter("weight").detach().as_subclass(Quantised))
    assert not model.cell.is_plain


def test_the_untouched_cell_is_prepared_and_the_changed_one_agrees_with_it() -> None:
    """The cell that calls its modules is the published one; in half precision and in sequences too."""
    plain = small_model()
    changed = copy.deepcopy(plain)
    changed.cell.mix.register_forward_hook(lambda *_: None)
    features = plain.stem(images())
    assert isinstance(plain.prepare(features), Injection)
    assert changed.prepare(features) is features
    gradients = []
    for model in (plain, changed):
        model(images()).landmarks.square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * max(1.0, one.abs().max().item()))
    frames = images(4).view(2, 2, 3, 16, 16)
    torch.testing.assert_close(WarmStarts(plain)(frames).landmarks, WarmStarts(changed)(frames).landmarks, rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert changed(images()).z.dtype == torch.float32
    changed.to(torch.bfloat16)
    assert changed(images().to(torch.bfloat16)).z.dtype == torch.float32


# --- several processes --------------------------------------------------------------------------------------------------


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def gradients_of(model: nn.Module, batch: Tensor, weight: float = 1.0) -> dict[str, Tensor]:
    (weight * model(batch).landmarks.square().sum()).backward()
    return {
        name.replace("module.", ""): getattr(
            p.grad, "full_tensor", lambda grad=p.grad: grad
        )()  # a sharded gradient is gathered
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def assert_close_to(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=0, atol=tolerance * max(1.0, grad.abs().max().item()), msg=name)


def wrap_cell(model: LDEQ) -> nn.Module:
    model.deq.cell = DistributedDataParallel(model.deq.cell)  # type: ignore[assignment]
    return model


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", [wrap_cell, DistributedDataParallel], ids=["cell", "model"])
def test_distributed_data_parallel_gives_the_gradients_of_the_plain_model(wrap: Callable[[LDEQ], nn.Module]) -> None:
    expected = gradients_of(small_model().eval(), images())
    assert_close_to(gradients_of(wrap(small_model().eval()), images()), expected, 1e-5)


def shard_cell(model: LDEQ) -> None:
    fully_shard(model.cell)


def shard_blocks_and_model(model: LDEQ) -> None:
    for block in (model.cell.mix, model.cell.hourglass):
        fully_shard(block)
    fully_shard(model)


def _train_sharded(rank: int, port: int, shard: Callable[[LDEQ], None], path: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = small_model().double().eval()
    shard(model)
    half = images().double().chunk(2)[rank]
    found = gradients_of(model, half)
    if rank == 0:
        torch.save(found, path)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("shard", [shard_cell, shard_blocks_and_model])
def test_sharded_parameters_give_the_gradients_of_one_process(shard: Callable[[LDEQ], None], tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    spawn(partial(_train_sharded), args=(port, shard, str(tmp_path / "grads.pt")), nprocs=2)
    found = torch.load(tmp_path / "grads.pt")
    # Shards average over the processes. What is not sharded, the stem of the first case, has the half batch of its process.
    expected = gradients_of(small_model().double().eval(), images().double(), weight=0.5)
    names = [name for name in expected if name.startswith("deq.") or shard is shard_blocks_and_model]
    assert math.isfinite(sum(g.norm().item() for g in expected.values()))
    assert_close_to({name: found[name] for name in names}, {name: expected[name] for name in names}, 1e-6)
