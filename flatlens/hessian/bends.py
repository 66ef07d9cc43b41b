"""Whether what follows a layer can bend: read off the autograd graph, node by node.

A layer's Hessian is its Gauss–Newton matrix where everything behind it is piecewise linear. A second derivative that
is 0 at a few points does not show that: ELU, SELU, CELU and Softplus are (all but) straight on one side, and all units
may lie there. So exact is only what consists of nodes known to be piecewise linear; all else is taken to bend.
"""

from __future__ import annotations

from torch.autograd.graph import Node

from flatlens.victims.graph import Graph, Place, kind, kinds

STRAIGHT = kinds(
    # moving entries about
    "Alias AsStrided Cat ChannelShuffle Clone Col2Im Contiguous Copy CopyBackwards CopySlices Detach Diagonal Expand "
    "Fill Flip Gather Identity Im2Col Index IndexAdd IndexCopy IndexPut IndexSelect MaskedFill MaskedScatter "
    "MaskedSelect Movedim NanToNum Narrow Permute PixelShuffle PixelUnshuffle Put Repeat RepeatInterleave Reshape "
    "ReshapeAlias Roll Rot90 Scatter ScatterAdd Select SelectScatter Slice SliceScatter Split SplitWithSizes Squeeze "
    "Stack T Take ToCopy Trace Transpose Tril Triu Unbind Unfold UnsafeSplit UnsafeView Unsqueeze View ViewAsReal "
    "Where Zero "
    # sums and means
    "Add AddRelu Cumsum Mean Nanmean Nansum Neg Rsub Sub Sum "
    # pooling, padding, resampling
    "AdaptiveAvgPool1D AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool1D AdaptiveMaxPool2D AdaptiveMaxPool3D "
    "AvgPool1D AvgPool2D AvgPool3D ConstantPadNd FractionalMaxPool2D FractionalMaxPool3D MaxPool1D "
    "MaxPool2DWithIndices MaxPool3DWithIndices MaxUnpool2D MaxUnpool3D MkldnnAdaptiveAvgPool2D MkldnnMaxPool2D "
    "ReflectionPad1D ReflectionPad2D ReflectionPad3D ReplicationPad1D ReplicationPad2D ReplicationPad3D "
    "UpsampleBicubic2D UpsampleBicubic2DAa UpsampleBilinear2D UpsampleBilinear2DAa UpsampleLinear1D "
    "UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D UpsampleNearestExact1D UpsampleNearestExact2D "
    "UpsampleNearestExact3D UpsampleTrilinear3D "
    # straight pieces
    "Abs Amax Amin Aminmax Ceil Clamp ClampMax ClampMin Cummax Cummin Floor Hardshrink Hardsigmoid Hardtanh Kthvalue "
    "LeakyRelu Max Maximum Median Min Minimum Nanmedian Relu Round Sgn Sign Softshrink Sort Threshold Topk Trunc"
)
"""Linear, or linear in pieces, in all their inputs together."""

ONE_FACTOR = kinds(
    "Addbmm Addcmul Addmm Addmv Addr Baddbmm Bmm ConvDepthwise2D ConvDepthwise3D Convolution ConvolutionOverrideable "
    "CudnnBatchNorm CudnnConvolution CudnnConvolutionTranspose Dot Ger LinalgVecdot Linear MiopenBatchNorm "
    "MiopenConvolution MkldnnConvolution MkldnnLinear Mm MpsConvolution Mul Mv NativeBatchNorm PreluKernel "
    "SlowConv2D SlowConv3D SlowConvDilated2D SlowConvDilated3D SlowConvTranspose2D ThnnConv2D"
)
"""Products: linear in each factor, so straight as long as the layer reaches one of the inputs alone."""

SUMMANDS = kinds("Addbmm Addcmul Addmm Addmv Addr Baddbmm")
"""Products whose first input is only added."""

FIRST_ONLY = kinds("Div GridSampler2D GridSampler3D Rrelu RreluWithNoise")
"""Linear in their first input."""


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
