"""Bytes to states and back: exact, and nothing is clipped in silence."""

import numpy as np
import pytest
import torch

from gendiff.modalities.images.encode import from_state, to_grids, to_state
from gendiff.modalities.images.records import ImageArrays

EVERY = np.arange(256, dtype=np.uint8).reshape(1, 8, 8, 4)
"""Every value of a byte once."""


def test_the_ends_of_the_scale_are_minus_one_and_one():
    state = to_state(np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3))
    assert state.shape == (1, 3, 1, 1)
    assert state.dtype == torch.float32
    assert state.flatten().tolist() == pytest.approx([-1, -0.6, 1], abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_byte_comes_back(dtype):
    pixels, clipped = from_state(to_state(EVERY).to(dtype))
    assert np.array_equal(pixels, EVERY)
    assert pixels.dtype == np.uint8
    assert clipped.tolist() == [0]


@pytest.mark.parametrize("shift", [-0.49, 0.49])
def test_values_become_the_nearest_byte(shift):
    """Also beyond the ends of the scale, where less than half a step is rounded and no more than rounded."""
    pixels, clipped = from_state(to_state(EVERY) + shift / 127.5)
    assert np.array_equal(pixels, EVERY)
    assert clipped.tolist() == [0]


def test_what_was_clipped_is_told_of_each_image():
    x = torch.zeros(3, 2, 2, 2)
    x[1, 0, 0, 0], x[1, 1, 1, 1] = 1.1, -7.0
    x[2] = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0, 1, -1, 1.003, 1.005]).reshape(2, 2, 2)
    pixels, clipped = from_state(x)
    assert clipped.tolist() == [0, 2 / 8, 4 / 8]  # 1.003 is 255.38, which rounding alone makes a byte
    assert pixels[0].ravel().tolist() == [128] * 8
    assert (pixels[1, 0, 0, 0], pixels[1, 1, 1, 1]) == (255, 0)
    assert pixels[2].transpose(2, 0, 1).ravel().tolist() == [0, 255, 0, 128, 255, 0, 255, 255]


def test_channels_move_and_pixels_keep_their_place():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 3), dtype=np.uint8)
    data = to_grids(ImageArrays(pixels))
    index = torch.tensor([4, 1])
    batch = data.batch(index)
    assert batch.state["pixel"].shape == (2, 3, 3, 4)
    assert batch.state["pixel"].is_contiguous()
    for row, i in enumerate(index.tolist()):
        for channel in range(3):
            expected = pixels[i, :, :, channel] / 127.5 - 1
            assert batch.state["pixel"][row, channel].numpy() == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(from_state(batch.state["pixel"])[0], pixels[index])


def test_training_data_share_the_memory_of_the_images():
    pixels = np.zeros((2, 3, 4, 3), np.uint8)
    data = to_grids(ImageArrays(pixels))
    pixels[1, 2, 3, 0] = 255
    assert data.fields["pixel"][1, 0, 2, 3] == 255
    assert data.fields["pixel"].dtype == torch.uint8


def test_arrays_that_torch_cannot_share_are_copied():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 1), dtype=np.uint8)
    fixed = pixels.copy()
    fixed.flags.writeable = False
    for array in (fixed, pixels[:, ::-1][:, ::-1], pixels[::-1][::-1], np.broadcast_to(pixels[:1], pixels.shape)):
        assert np.array_equal(from_state(to_state(array))[0], array)
    assert np.array_equal(from_state(to_state(pixels[:, :, ::-1]))[0], pixels[:, :, ::-1])
