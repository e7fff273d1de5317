"""The network of a denoiser, fused by torch's compiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from gendiff.denoise.denoiser import Denoiser
from gendiff.files import UserError

KINDS = 64
"""So many kinds of inputs of a block have code of their own; torch's 8 are soon used up by a few models one after the
other, and then it computes without, as if it had not been asked."""


@contextmanager
def compiled(denoiser: Denoiser, wanted: bool = True) -> Iterator[None]:
    """Run the network of a denoiser through torch's compiler inside the block: fewer passes over memory.

    Of a network with a list of `blocks` these are compiled: where they are alike, code for one serves all, in a
    fraction of the time that the whole takes. Code is made at the first call, which takes minutes on a CPU, and again
    for inputs of another kind (without gradients, say); of sets and sequences for all sizes, of grids for all once
    there is a second. Weights and their names stay; copies of the network are not compiled, and recurrent layers run as
    they are.

    Arguments:
        denoiser: The denoiser.
        wanted: False for a block without a compiler.

    Raises:
        UserError: if the compiler is missing, or cannot do it.
    """
    if not wanted:
        yield
        return
    from torch._dynamo import config  # loads in seconds
    from torch._dynamo.exc import TorchDynamoException

    blocks = getattr(denoiser.network, "blocks", None)
    parts = list(blocks) if isinstance(blocks, nn.ModuleList) else [denoiser.network]
    grids = any(field.space.size for _, field in denoiser.process.items())
    before = [part._compiled_call_impl for part in parts]
    for part in parts:
        part.compile(dynamic=None if grids else True)
    try:
        with config.patch(recompile_limit=KINDS):
            yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).split("\n\n")[0].split())  # what follows is advice to developers
        raise UserError(f"--compile: torch's compiler cannot do it here ({reason}); leave --compile out") from None
    finally:
        for part, call in zip(parts, before, strict=True):
            part._compiled_call_impl = call
