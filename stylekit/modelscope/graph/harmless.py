"""Which graphs TensorFlow may be given: those that only compute.

A graph is a program, and TensorFlow runs whatever operation it names: one reads any file, another writes one, a third calls
Python. So upstream's face detector and landmarks, which are taken as they are, may have only the operations listed here.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from stylekit.errors import CheckpointError
from stylekit.modelscope.graph.frozen import parse_graph, read_file

MAX_BYTES = 16 * 2**20
"""Upstream's two have 4.5 and 4.1 MB."""

_MOST_NODES = 50_000
_HINT = "Take it from one of ModelScope's DCT-Net styles, every one of which has the same; nothing of this one was run."

_OPERATIONS = """
Const Placeholder PlaceholderWithDefault Identity IdentityN NoOp StopGradient PreventGradient Assert CheckNumerics

Abs Add AddN AddV2 BiasAdd BiasAddV1 Cast Ceil ClipByValue Cos Div DivNoNan Elu Erf Exp Expm1 Floor FloorDiv FloorMod Inv
LeakyRelu Log Log1p LogSoftmax Maximum Minimum Mod Mul MulNoNan Neg Pow RealDiv Reciprocal Relu Relu6 Rint Round Rsqrt Selu
Sigmoid Sign Sin Softmax Softplus Softsign Sqrt Square SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod

ApproximateEqual Equal Greater GreaterEqual IsFinite IsInf IsNan Less LessEqual LogicalAnd LogicalNot LogicalOr NotEqual
Select SelectV2 Where

All Any ArgMax ArgMin Cumprod Cumsum InTopK InTopKV2 L2Loss Max Mean Min Prod SegmentMax SegmentMean SegmentMin SegmentSum Sum
TopK TopKV2 Unique UniqueV2 UnsortedSegmentMax UnsortedSegmentSum

AvgPool BatchMatMul BatchMatMulV2 BatchNormWithGlobalNormalization Conv2D Conv2DBackpropInput DepthToSpace
DepthwiseConv2dNative Dilation2D FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 LRN MatMul MaxPool MaxPoolV2 SpaceToDepth

BatchToSpace BatchToSpaceND BroadcastArgs BroadcastTo Concat ConcatOffset ConcatV2 ExpandDims Fill Gather GatherNd GatherV2
InvertPermutation LinSpace MirrorPad OneHot OnesLike Pack Pad PadV2 ParallelConcat Range Rank Reshape Reverse ReverseV2
ScatterNd Shape ShapeN Size Slice SpaceToBatch SpaceToBatchND SparseToDense Split SplitV Squeeze StridedSlice
TensorScatterUpdate Tile Transpose Unpack ZerosLike

CombinedNonMaxSuppression CropAndResize NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4
NonMaxSuppressionV5 NonMaxSuppressionWithOverlaps ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor

RandomStandardNormal RandomUniform

ControlTrigger Enter Exit LoopCond Merge NextIteration Switch TensorArrayCloseV3 TensorArrayConcatV3 TensorArrayGatherV3
TensorArrayReadV3 TensorArrayScatterV3 TensorArraySizeV3 TensorArraySplitV3 TensorArrayV3 TensorArrayWriteV3
"""
HARMLESS = frozenset(_OPERATIONS.split())
"""Operations of inference that reach nothing outside the graph: no file, no other machine, no Python, nothing that stays."""


def read_harmless(path: Path, wanted: Collection[str] = ()) -> bytes:
    """Return a graph that does nothing but compute, as its file has it.

    It may still compute something else than it should, or take long over it.

    Args:
        path: A `.pb`.
        wanted: Nodes that it must have.

    Raises:
        CheckpointError: If it cannot be read, lacks such a node, or has one, read or not, that could do more than compute.
        MissingPartError: If the package that describes the format is not installed.
    """
    data = read_file(path, MAX_BYTES)
    graph = parse_graph(data, str(path))
    if graph.library.ByteSize():
        raise CheckpointError(f"{path} brings functions of its own, which a face detector has no use for.", _HINT)
    if len(graph.node) > _MOST_NODES:
        raise CheckpointError(f"{path} has {len(graph.node):,} nodes, far more than a face detector.", _HINT)
    names = set()
    for node in graph.node:
        if node.op not in HARMLESS:
            raise CheckpointError(f"{path}: node {node.name} is a {node.op}, which a face detector has no use for.", _HINT)
        names.add(node.name)
    if missing := [node for node in wanted if node not in names]:
        raise CheckpointError(f"{path} has no node {missing[0]}.", _HINT)
    return data
