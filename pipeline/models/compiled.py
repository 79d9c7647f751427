"""Blocks that PyTorch compiles: one graph for a whole block, in which attention is one operation.

The pages, tables and ranks behind a context stay Python, which runs when the operation does. The graph holds nothing of
them but the number of the call, by which the operation finds its context, so all layers of a network share one graph,
whatever a chunk sees. Graphs are specialized to the shapes of a pass: code for several shapes rounds otherwise than
code for one, and what is computed must not depend on what was computed before.

Shapes: b batch, h heads, l tokens of one stream, d head width, a axes of position.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from typing import Any, Protocol, cast

import torch
from einops import rearrange
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.context import QKV, AttentionContext, Meeting, PromptKV, Site
from longtake.pipeline.errors import KernelError, SpecError
from longtake.pipeline.models.protocols import Block, Tokens

SHAPES = 1024
"""The most shapes of passes, over all blocks of a process; each costs a compilation."""


class CompilableBlock(Protocol):
    """A block, as a module, that says which keys and values it makes of prompts: they are made once a scene, outside
    the graph."""

    forward: Block

    def prompts(self, tokens: Mapping[str, Tokens]) -> Mapping[str, PromptKV]:
        """What it hands to its context, by kind of site."""
        ...


def compile_blocks(blocks: Iterable[Block], *, backend: str = "inductor", fullgraph: bool = True) -> None:
    """Compile the blocks of a denoiser; they stay the same modules, with their hooks.

    Args:
        backend: of `torch.compile`.
        fullgraph: refuse what cannot be part of the graph; otherwise it runs as Python.
    """
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = SHAPES
    options: Any = {"deterministic": True} if backend == "inductor" else None  # no code is chosen by its speed
    run = torch.compile(_run, fullgraph=fullgraph, dynamic=False, backend=backend, options=options)
    for block in blocks:
        compilable = cast(CompilableBlock, block)
        compilable.forward = _Compiled(compilable, run)


def compiler(device: torch.device) -> str:
    """The compiler of this machine for a device, which decides bits. Raises `SpecError` if there is none."""
    from torch._inductor.cpp_builder import get_compiler_version_info, get_cpp_compiler  # noqa: PLC0415 (slow)
    from torch._inductor.exc import InvalidCxxCompiler  # noqa: PLC0415

    try:
        if device.type != "cpu":
            return f"triton {version('triton')}"
        return get_compiler_version_info(get_cpp_compiler()).splitlines()[0]
    except PackageNotFoundError:
        raise SpecError(
            "the denoiser's blocks are to be compiled, and there is no Triton here; pip install triton, or use"
            " --compile none"
        ) from None
    except InvalidCxxCompiler:
        raise SpecError("--compile is blocks, and there is no C++ compiler here; install g++, or use none") from None


@dataclass(frozen=True)
class _Call:
    """A block that runs: what its graph does not hold.

    Args:
        prompts: by kind of site.
    """

    context: AttentionContext
    layer: int
    prompts: Mapping[str, PromptKV]


_CALLS: dict[int, _Call] = {}
_NUMBERS = count()


@contextmanager
def _numbered(call: _Call) -> Iterator[Tensor]:
    """The number by which the operation finds the call, inside the block."""
    number = next(_NUMBERS)
    _CALLS[number] = call
    try:
        yield torch.tensor(number)
    finally:
        del _CALLS[number]


@torch.library.custom_op("longtake::attend", mutates_args=())
def _attend(
    run: Tensor,
    kind: str,
    names: str,
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    positions: Sequence[Tensor],
) -> list[Tensor]:
    """`AttentionContext.attend` in a graph.

    Args:
        run: the number of the call.
        kind: of the site.
        names: see `_names`.

    Returns:
        What the streams with queries attended, each [b l h d] (the order in which kernels leave it), and the number.
    """
    call = _CALLS[int(run)]
    with_keys, asking, prompts, placed = (some.split() for some in names.split(","))
    asked = dict(zip(asking, queries, strict=True))
    own = {name: QKV(asked.get(name), k, v) for name, k, v in zip(with_keys, keys, values, strict=True)}
    streams: dict[str, QKV | PromptKV] = dict(own)
    for name in prompts:
        streams[name] = call.prompts[kind]
    places = dict(zip(placed, positions, strict=True))
    attended = call.context.attend(Site(call.layer, kind), streams, places)

    def of(name: str) -> Tensor:
        out = attended.get(name)
        if out is None:  # the graph does not read it
            return _rows(torch.zeros_like(asked[name])).contiguous()
        rows = _rows(out)
        # A perturbed site returns its values; what an operation returns is memory of its own.
        return rows.clone(memory_format=torch.contiguous_format) if out is own[name].v else rows.contiguous()

    return [*map(of, asked), run.clone()]


def _names(*groups: Iterable[str]) -> str:
    """Streams in one string: those with keys and values, with queries, with keys of a prompt, and with positions."""
    return ",".join(" ".join(names) for names in groups)


@_attend.register_fake
def _shapes(run: Tensor, _kind: str, _names: str, queries: Sequence[Tensor], *_: Sequence[Tensor]) -> list[Tensor]:
    return [*(_rows(torch.empty_like(q)).contiguous() for q in queries), run.clone()]


def _rows(x: Tensor) -> Tensor:
    return rearrange(x, "b h l d -> b l h d")


class _Compiled:
    """The compiled forward pass of one block."""

    def __init__(self, block: CompilableBlock, run: Any) -> None:
        self._block, self._run = block, run

    def __call__(self, tokens: Mapping[str, Tokens], context: AttentionContext, layer: int) -> dict[str, Tokens]:
        """What the block computes."""
        with _numbered(_Call(context, layer, self._block.prompts(tokens))) as run:
            try:
                found, _ = self._run(self._block, tokens, run, context.silent(layer))
            except torch._dynamo.exc.TorchDynamoException as error:
                reason = " ".join(str(error).splitlines()[:2])
                raise KernelError(f"PyTorch cannot compile a block ({reason}); use --compile none") from error
        return {name: replace(tokens[name], x=x) for name, x in found.items()}


def _run(
    block: Any, tokens: Mapping[str, Tokens], run: Tensor, silent: tuple[str, ...]
) -> tuple[dict[str, Tensor], Tensor]:
    """What is compiled: each stream [b f s d] after a block, and the number of its call."""
    context = _OneOperation(run, silent)
    after = type(block).forward(block, tokens, context, 0)
    return {name: stream.x for name, stream in after.items()}, context.run


class _OneOperation(AttentionContext):
    """The context of a block while it is compiled.

    Args:
        run: the number of the call. Each operation returns it, and the next one takes that, so that the compiler keeps
            their order, and keeps those whose output is not read.
        silent: kinds of sites at which the true context returns nothing.
    """

    def __init__(self, run: Tensor, silent: tuple[str, ...]) -> None:
        self.run, self._silent = run, silent

    @override
    def attend(self, site: Site, streams: Meeting, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = {name: stream for name, stream in streams.items() if isinstance(stream, QKV)}
        asking = {name: stream.q for name, stream in own.items() if stream.q is not None}
        prompts = [name for name in streams if name not in own]
        *attended, self.run = _attend(
            self.run,
            site.kind,
            _names(own, asking, prompts, positions),
            list(asking.values()),
            [stream.k for stream in own.values()],
            [stream.v for stream in own.values()],
            list(positions.values()),
        )
        if site.kind in self._silent:
            return {}
        return {name: rearrange(out, "b l h d -> b h l d") for name, out in zip(asking, attended, strict=True)}
