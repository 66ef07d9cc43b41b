"""Classifiers that are the objects under study, fitted to the shape of the data.

All normalise their inputs first, in ``normalize``, and end in a Linear layer ``fc`` whose output is the logits. Each
layer is a module of its own that is used once per pass; nothing works in place.

`plain` has the small CNN and the MLP; `resnet`, `densenet`, `vgg` and `vit` have the families; `parts` what they share.
"""

from __future__ import annotations

from flatlens.models.zoo.blocks import ACTIVATIONS as ACTIVATIONS
from flatlens.models.zoo.blocks import NORMS as NORMS
from flatlens.models.zoo.blocks import Normalize as Normalize
from flatlens.models.zoo.blocks import SwiGLU as SwiGLU
from flatlens.models.zoo.blocks import lanes as lanes
from flatlens.models.zoo.densenet import densenet121 as densenet121
from flatlens.models.zoo.plain import cnn as cnn
from flatlens.models.zoo.plain import mlp as mlp
from flatlens.models.zoo.resnet import resnet18 as resnet18
from flatlens.models.zoo.resnet import wide_resnet as wide_resnet
from flatlens.models.zoo.vgg import vgg11 as vgg11
from flatlens.models.zoo.vit import vit as vit
