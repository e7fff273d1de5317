"""The network of a denoiser, fused by torch's compiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gendiff.denoise.denoiser import Denoiser
from gendiff.files import UserError


@contextmanager
def compiled(denoiser: Denoiser, wanted: bool = True) -> Iterator[None]:
    """Run the network of a denoiser through torch's compiler inside the block: fewer passes over memory.

    Code is made at the first call, which takes from seconds to minutes, and again for inputs of another kind (without
    gradients, say); of sets and sequences for all sizes, of grids for all once there is a second. Weights and their
    names stay; copies of the network are not compiled, and recurrent layers run as they are.

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

    network, grids = denoiser.network, any(field.space.size for _, field in denoiser.process.items())
    network.compile(dynamic=None if grids else True)
    try:
        yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).split("\n\n")[0].split())  # what follows is advice to developers
        raise UserError(f"--compile: torch's compiler cannot do it here ({reason}); leave --compile out") from None
    finally:
        network._compiled_call_impl = None
