"""Whether what follows a layer can bend: read off the autograd graph, node by node.

A layer's Hessian is its Gauss–Newton matrix where everything behind it is piecewise linear. A second derivative that
is 0 at a few points does not show that: ELU, SELU, CELU and Softplus are (all but) straight on one side, and all units
may lie there. So exact is only what consists of nodes known to be piecewise linear; all else is taken to bend.
"""

from __future__ import annotations

from torch.autograd.graph import Node

from flatlens.graph import Graph, Place, kind

STRAIGHT = frozenset(
    # moving entries about
    "Alias AsStrided Cat Clone Contiguous Copy CopyBackwards CopySlices Diagonal Expand Flip Gather Identity Im2Col "
    "Col2Im Index IndexAdd IndexCopy IndexPut IndexSelect MaskedScatter MaskedSelect Movedim Narrow Permute PixelShuffle "
    "PixelUnshuffle ChannelShuffle Put Repeat RepeatInterleave Reshape ReshapeAlias Roll Rot90 Scatter ScatterAdd Select "
    "Slice SliceScatter SelectScatter Split SplitWithSizes Squeeze Stack T Take ToCopy Trace Transpose Tril Triu Unbind "
    "Unfold UnsafeSplit UnsafeView Unsqueeze View ViewAsReal Where MaskedFill Fill Zero NanToNum Detach "
    # sums and means
    "Add AddRelu Sub Rsub Neg Sum Mean Cumsum Nansum Nanmean "
    # pooling, padding, resampling
    "AvgPool1D AvgPool2D AvgPool3D AdaptiveAvgPool1D AdaptiveAvgPool2D AdaptiveAvgPool3D MkldnnAdaptiveAvgPool2D "
    "MaxPool1D MaxPool2DWithIndices MaxPool3DWithIndices AdaptiveMaxPool1D AdaptiveMaxPool2D AdaptiveMaxPool3D "
    "FractionalMaxPool2D FractionalMaxPool3D MaxUnpool2D MaxUnpool3D MkldnnMaxPool2D "
    "ConstantPadNd ReflectionPad1D ReflectionPad2D ReflectionPad3D ReplicationPad1D ReplicationPad2D ReplicationPad3D "
    "UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D UpsampleNearestExact1D UpsampleNearestExact2D "
    "UpsampleNearestExact3D UpsampleLinear1D UpsampleBilinear2D UpsampleBilinear2DAa UpsampleBicubic2D "
    "UpsampleBicubic2DAa UpsampleTrilinear3D "
    # straight pieces
    "Abs Amax Amin Ceil Clamp ClampMax ClampMin Floor Hardshrink Hardsigmoid Hardtanh Kthvalue LeakyRelu Max Maximum "
    "Median Min Minimum Nanmedian Relu Round Sgn Sign Softshrink Sort Threshold Topk Trunc Aminmax Cummax Cummin".split()
)
"""Linear, or linear in pieces, in all their inputs together."""

ONE_FACTOR = frozenset(
    "Addbmm Addcmul Addmm Addmv Addr Baddbmm Bmm Convolution ConvolutionOverrideable CudnnConvolution "
    "CudnnConvolutionTranspose CudnnBatchNorm Dot Linalgvecdot Linear MiopenBatchNorm MiopenConvolution MkldnnConvolution "
    "MkldnnLinear Mm MpsConvolution Mul Mv NativeBatchNorm PreluKernel Prelu SlowConv2D SlowConvDilated2D SlowConv3D "
    "SlowConvTranspose2D ThnnConv2D ConvDepthwise2D ConvDepthwise3D SlowConvDilated3D Ger Outer Lerp".split()
)
"""Products: linear in each factor, so straight as long as the layer reaches one of the inputs alone."""

FIRST_ONLY = frozenset(("Div", "GridSampler2D", "GridSampler3D", "Rrelu", "RreluWithNoise"))
"""Linear in their first input."""

SUMMANDS = {"Addbmm", "Addcmul", "Addmm", "Addmv", "Addr", "Baddbmm"}
"""Products whose first input is only added."""


def bending(graph: Graph, layer: Place) -> str | None:
    """The name of a node behind a layer that can bend, or None where all is piecewise linear.

    Args:
        graph: of the logits.
        layer: where the layer's output stands.
    """
    for node, positions in graph.between(layer).items():
        name = kind(node)
        if name in STRAIGHT:
            continue
        if name in ONE_FACTOR and len(positions - ({0} if name in SUMMANDS else set())) <= 1 and not _training(node):
            continue
        if name in FIRST_ONLY and positions == {0}:
            continue
        return name
    return None


def _training(node: Node) -> bool:
    """Whether a batch norm takes its statistics from the batch."""
    return bool(getattr(node, "_saved_training", False))
