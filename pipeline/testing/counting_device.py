"""A GPU that computes nothing and counts what it is asked to do, for benches and tests of the hot path.

    device = CountingDevice()
    with device, torch.inference_mode():
        network = device.moved(network)          # built on `meta`, at its real size
        before = device.counts()
        network(...)
        print(device.counts() - before)

Tensors on `cuda` are fake: they have a shape, a dtype and a device. Tensors on the CPU are real, so the host's part of
a pass runs as always. PyTorch's operations are counted as a GPU would run them eagerly: views cost nothing, and an
operation that is made of others counts as those. Whatever makes the host wait for the device is counted, and answered
with zeros.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

aten = torch.ops.aten

CUDA = torch.device("cuda:0")

READ_BY_HOST = (aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default, aten.nonzero.default)
"""Operations after which the host has to wait for the device."""
FREE = (aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten._unsafe_view)
"""Operations that start no kernel, though their results are no views by their schema."""
WHOLE = (aten.rms_norm, aten.layer_norm, aten.native_layer_norm, aten._fused_rms_norm)
"""Operations that are one kernel on a GPU, though they can be divided into others."""
MATRIX = ("mm", "addmm", "bmm", "baddbmm", "convolution", "_convolution")
"""Names of matrix products; those that hold `attention` are added to them."""

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Counts:
    """What a device was asked to do.

    Args:
        kernels: started, copies included.
        elementwise: kernels that are no matrix product and no attention.
        elementwise_bytes: that those read and write.
        casts: kernels that only change the dtype.
        views: operations that start no kernel, but take the host's time.
        syncs: times that the host waited for the device.
        transfers: copies between host and device, in both directions.
    """

    kernels: int = 0
    elementwise: int = 0
    elementwise_bytes: int = 0
    casts: int = 0
    views: int = 0
    syncs: int = 0
    transfers: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


class CountingDevice(FakeTensorMode):  # type: ignore[no-untyped-call]  # of its base, when it is subclassed
    """See the module. Used as a context manager; counts go on from one use to the next."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._counts, self._depth = Counts(), 0

    def counts(self) -> Counts:
        """Everything so far."""
        return self._counts

    def moved(self, network: Network, dtype: torch.dtype, float32: Sequence[str] = ()) -> Network:
        """A network that was built on `meta`, on this device.

        Args:
            float32: names of submodules or parameters that keep float32; see `weights.tensors.fill`.
        """
        kept = set(float32)
        for name, module in network.named_modules():
            for leaf, weight in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                own = torch.float32 if kept & {*name.split("."), leaf} else dtype
                fake = torch.empty(weight.shape, device=CUDA, dtype=own if weight.is_floating_point() else weight.dtype)
                if isinstance(weight, nn.Parameter):
                    module.register_parameter(leaf, nn.Parameter(fake, requires_grad=False))
                else:
                    module.register_buffer(leaf, fake)
        return network.eval()

    @override
    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, given)) if isinstance(x, Tensor)]
        fake = any(isinstance(x, FakeTensor) for x in tensors)
        targets = [x for x in (*args, *given.values()) if isinstance(x, torch.device)]
        if not fake and all(target.type == "cpu" for target in targets):
            return func(*args, **given)
        if self._depth or func.namespace == "prim":  # a part of an operation that is counted already
            return super().__torch_dispatch__(func, types, args, given)
        if func.overloadpacket == aten.dropout and not args[2]:  # its decomposition copies, a GPU does not
            return args[0]
        answer = self._answered(func, args, given)
        if answer is not None:
            return answer
        self._depth += 1
        try:
            out = super().__torch_dispatch__(func, types, args, given)
        finally:
            self._depth -= 1
        self._count(func, tensors, out)
        return out

    def _answered(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The result of an operation that is no single kernel; None for one that is."""
        packet = func.overloadpacket
        if func in READ_BY_HOST:
            return self._read(func, args)
        if packet == aten.is_set_to:
            return _same_memory(args[0], args[1])
        if packet in (aten.index, aten.masked_select) and _is_masked(args[1]):
            self._add(syncs=1, kernels=1, elementwise=1)  # the host asks how many there are
            return self._quietly(lambda: torch.empty(args[0].numel(), dtype=args[0].dtype, device=CUDA))
        if packet == aten.scaled_dot_product_attention:  # one kernel, whichever is chosen
            self._add(kernels=1)
            return self._quietly(lambda: torch.empty_like(args[0]))
        if packet not in WHOLE and _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        return self._transferred(func, args, kwargs)

    def _read(self, func: Any, args: Sequence[Any]) -> Any:
        """The answer to a question of the host about values on the device."""
        self._add(syncs=1, transfers=1)
        if func == aten.equal.default:
            return args[0].shape == args[1].shape
        if func == aten.nonzero.default:
            return self._quietly(lambda: torch.empty(args[0].numel(), args[0].dim(), dtype=torch.int64, device=CUDA))
        return torch.zeros((), dtype=args[0].dtype).item()

    def _transferred(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
        """The result of a copy between host and device; None for anything else."""
        if func == aten._to_copy.default:
            to = torch.device(kwargs.get("device") or args[0].device)
            if to.type == args[0].device.type:
                return None
            self._moved(waits=not kwargs.get("non_blocking", False))
            dtype = kwargs.get("dtype") or args[0].dtype
            if to.type == "cpu":
                return torch.zeros(args[0].shape, dtype=dtype)
            return self._quietly(lambda: torch.empty(args[0].shape, dtype=dtype, device=CUDA))
        if func == aten.copy_.default and args[0].device.type != args[1].device.type and args[1].numel() > 1:
            self._moved(waits=not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False)))
            copied: Tensor = args[0]
            return copied
        return None

    def _moved(self, waits: bool) -> None:
        self._add(transfers=1, syncs=int(waits))

    def _quietly(self, make: Callable[[], Tensor]) -> Tensor:
        self._depth += 1
        try:
            with self:
                return make()
        finally:
            self._depth -= 1

    def _count(self, func: Any, tensors: Sequence[Tensor], out: Any) -> None:
        if func.overloadpacket in FREE or _is_view(func):
            self._add(views=1)
            return
        results = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if not any(x.numel() for x in results):
            self._add(views=1)  # nothing to do, so nothing is started
            return
        name = func.overloadpacket.__name__
        if name in MATRIX or "attention" in name:
            self._add(kernels=1)
            return
        moved = sum(_bytes(x) for x in (*tensors, *results) if x.device.type == "cuda")
        cast = name == "_to_copy"
        self._add(kernels=1, elementwise=1, elementwise_bytes=moved, casts=int(cast))

    def _add(self, **more: int) -> None:
        self._counts += Counts(**more)


def _is_composite(func: Any) -> bool:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return has(func.name(), "CompositeImplicitAutograd") and not has(func.name(), "CUDA")


def _is_masked(index: Any) -> bool:
    """Whether an index chooses elements by their values."""
    return any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in tree_leaves(index))


def _is_view(func: Any) -> bool:
    """Whether the results of an operation are views of its arguments."""
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _same_memory(one: Tensor, other: Tensor) -> bool:
    """What `Tensor.is_set_to` says, for fake tensors, too."""
    if one.untyped_storage()._cdata != other.untyped_storage()._cdata or one.shape != other.shape:
        return False
    return (one.storage_offset(), one.stride()) == (other.storage_offset(), other.stride())


def _bytes(x: Tensor) -> int:
    """Bytes of the elements that a tensor shows; those that it repeats count once."""
    return prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride) * x.element_size()
