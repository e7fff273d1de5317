"""The network of a denoiser, fused by torch's compiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from gendiff.denoise.denoiser import Denoiser
from gendiff.files import UserError


@contextmanager
def compiled(denoiser: Denoiser, wanted: bool = True) -> Iterator[None]:
    """Run the network of a denoiser through torch's compiler inside the block: fewer passes over memory.

    Of a network with `blocks` these are compiled, which are alike: code for one serves all, in a fraction of the time
    that the whole takes. It is made at the first call, in tens of seconds to minutes, and again for inputs of another
    kind (without gradients, say); of sets and sequences for all sizes, of grids for all once there is a second. Weights
    and their names stay; copies of the network are not compiled, and recurrent layers run as they are.

    Arguments:
        denoiser: The denoiser.
        wanted: False for a block without a compiler.

    Raises:
        UserError: if the compiler is missing, or cannot do it.
    """
    if not wanted:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # loads in seconds

    blocks = getattr(denoiser.network, "blocks", None)
    parts = list(blocks) if isinstance(blocks, nn.ModuleList) else [denoiser.network]
    grids = any(field.space.size for _, field in denoiser.process.items())
    for part in parts:
        part.compile(dynamic=None if grids else True)
    try:
        yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).split("\n\n")[0].split())  # what follows is advice to developers
        raise UserError(f"--compile: torch's compiler cannot do it here ({reason}); leave --compile out") from None
    finally:
        for part in parts:
            part._compiled_call_impl = None
