r"""A bidirectional recurrent network of sequences, told a noise level and conditions in every block.

.. math::
    h &\leftarrow h + W \left[\overrightarrow{\mathrm{RNN}}(u), \overleftarrow{\mathrm{RNN}}(u)\right], \qquad
    u = (1 + \gamma)\, \mathrm{LayerNorm}(h) + \beta

and then the same with two layers of each point alone in the place of the RNN. :math:`\gamma, \beta` are linear in an
embedding of noise level and conditions. The way back reads each sequence from its own last element, not from the
padding: sequences are flipped within their lengths, read forwards and flipped back, which is exact and needs no
packing.

References:
    | ChiroDiff, a bidirectional denoiser of drawings (Das et al., 2023) | https://arxiv.org/abs/2304.03785
    | FiLM: visual reasoning with a general conditioning layer (Perez et al., 2018) | https://arxiv.org/abs/1709.07871
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gendiff.files import UserError
from gendiff.nn.frame import SequenceFrame
from gendiff.ops import State

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class BiRNN(nn.Module):
    """Residual bidirectional GRU or LSTM.

    Arguments:
        fields: Features of each field by name, {"stroke": 2, "pen": 2}.
        width: Features H of an element, even; each direction has H / 2.
        layers: Residual blocks.
        levels: Noise levels that it is told.
        conditions: As :class:`gendiff.nn.embed.Conditioning`.
        cell: "gru" or "lstm".
        complement: See :class:`gendiff.nn.frame.SequenceFrame`.
        expansion: Width of the layers of each point alone, in widths; 0 leaves them out.
        self_condition: See :class:`gendiff.nn.frame.SequenceFrame`.

    Raises:
        UserError: for sizes that are not positive, an odd width, or another cell.
    """

    def __init__(
        self,
        fields: Mapping[str, int],
        width: int = 128,
        layers: int = 3,
        levels: int = 1,
        conditions: Mapping[str, str | int] | None = None,
        cell: str = "gru",
        complement: str | None = "sum",
        expansion: int = 2,
        self_condition: bool = False,
    ):
        super().__init__()
        if cell not in CELLS:
            raise UserError(f"BiRNN: cell = {cell!r} must be one of {sorted(CELLS)}")
        if width < 2 or width % 2 or layers < 1:
            raise UserError(f"BiRNN: width must be even and layers positive, got {width} and {layers}")
        self.fields, self.width, self.layers, self.levels = dict(fields), width, layers, levels
        self.conditions, self.cell, self.complement = dict(conditions or {}), cell, complement
        self.expansion, self.self_condition = expansion, self_condition
        self.frame = SequenceFrame(self.fields, width, levels, self.conditions, complement, self_condition)
        self.blocks = nn.ModuleList([_Block(width, CELLS[cell], expansion) for _ in range(layers)])

    def forward(
        self, x: State, noise_level: Tensor, mask: Tensor | None = None, condition: State | None = None
    ) -> State:
        """Return the fields (B, N, D), zero at padding.

        Arguments:
            x: Fields (B, N, D), zero at padding.
            noise_level: (B, levels).
            mask: (B, N), the real elements first; None if all are.
            condition: See :class:`gendiff.nn.embed.Conditioning`.
        """
        h, told = self.frame.enter(x, noise_level, mask, condition)
        back = flip_index(mask, h)
        for block in self.blocks:
            h = block(h, told, back)
        return self.frame.leave(h, told, mask)


def flip_index(mask: Tensor | None, like: Tensor) -> Tensor:
    """Return where each element goes when a sequence is read from its end, (B, N, 1); padding stays."""
    batch, length = like.shape[:2]
    place = torch.arange(length, device=like.device).expand(batch, length)
    if mask is None:
        return place.flip(1)[..., None]
    sizes = mask.sum(1, keepdim=True)
    return torch.where(mask, sizes - 1 - place, place)[..., None]


class _Block(nn.Module):
    def __init__(self, width: int, cell: type[nn.GRU] | type[nn.LSTM], expansion: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(width, (4 if expansion else 2) * width)
        self.forth = cell(width, width // 2, batch_first=True)
        self.back = cell(width, width // 2, batch_first=True)
        self.out = nn.Linear(width, width)
        self.mix = (
            nn.Sequential(nn.Linear(width, expansion * width), nn.SiLU(), nn.Linear(expansion * width, width))
            if expansion
            else None
        )

    def forward(self, h: Tensor, told: Tensor, back: Tensor) -> Tensor:
        gamma, beta, *rest = self.film(told)[:, None].chunk(4 if self.mix else 2, -1)
        u = torch.addcmul(beta, self.norm(h), 1 + gamma)
        forth, _ = self.forth(u)
        reverse, _ = self.back(u.gather(1, back.expand_as(u)))
        reverse = reverse.gather(1, back.expand_as(reverse))
        h = h + self.out(torch.cat([forth, reverse], -1))
        if self.mix is not None:
            h = h + self.mix(torch.addcmul(rest[1], self.norm(h), 1 + rest[0]))
        return h
