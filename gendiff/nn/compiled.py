"""Networks fused by torch's compiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from gendiff.files import UserError


@contextmanager
def compiled(network: nn.Module, dynamic: bool | None = None, wanted: bool = True) -> Iterator[None]:
    """Run a network through torch's compiler inside the block: the same formulas in fewer passes over memory.

    Code is made at the first call, which takes from seconds to minutes, and again for inputs of another kind (without
    gradients, say). Weights and their names stay; copies of the network are not compiled, and recurrent layers
    run as they are.

    Arguments:
        network: The network.
        dynamic: Whether code is for all sizes from the start (samples of many sizes); by default it is for the first
            size, and for all once there is a second (images).
        wanted: False for a block without a compiler.

    Raises:
        UserError: if the compiler is missing, or cannot do it.
    """
    if not wanted:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # loads in seconds

    network.compile(dynamic=dynamic)
    try:
        yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).split("\n\n")[0].split())  # what follows is advice to developers
        raise UserError(f"--compile: torch's compiler cannot do it here ({reason}); leave --compile out") from None
    finally:
        network._compiled_call_impl = None
