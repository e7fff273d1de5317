"""The two-dimensional U-Net, of images, and the classifier that is its first half."""

from gendiff.nn.unet.classifier import NoisyClassifier as NoisyClassifier
from gendiff.nn.unet.network import PUBLISHED as PUBLISHED
from gendiff.nn.unet.network import UNet as UNet
