"""Whisper as ONNX graphs, built node by node, so that they accept inputs of any length.

Tracing a model with torch.onnx would freeze what depends on input values: the cache's branch, the offset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whisper_recipe.export.target import needed

if TYPE_CHECKING:
    import torch
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto
    from transformers import WhisperConfig

OPSET = 17  # the first with LayerNormalization; supported by runtimes of 2022
IR_VERSION = 8  # likewise
MAX_PROTOBUF = 2**31 - 2**20  # bytes of a file, less room for the graph; larger weights go to a separate file
# 7 bits: with 8, sums of two products overflow 16 bits on x86 without VNNI, and in browsers ("reduce range" of
# https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
INT8_LEVELS = 63
EPSILON = 1e-5  # of Whisper's LayerNorm
END = 2**62  # of a slice to the end


class Graph:
    """An ONNX graph built node by node; values are identified by name.

    Args:
        weights: of a transformers Whisper by name, without `model.`.
        storage: type of the weights: float32; float16, also for computation; or int8 for matrices, with inputs
            quantised to 8 bits at run time (ONNX Runtime's dynamic quantization), and float32 for the rest.
    """

    def __init__(self, weights: dict[str, torch.Tensor], storage: str) -> None:
        self.onnx = needed("onnx", "onnx")
        self.weights, self.quantized = weights, storage == "int8"
        self.dtype = np.dtype(np.float16 if storage == "float16" else np.float32)
        self.top: list[NodeProto] = []  # nodes outside of branches
        self.nodes = self.top  # the list that nodes are added to
        self.transposed: dict[str, str] = {}
        self.initializers: dict[str, np.ndarray] = {}
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self.rounded: dict[str, tuple[str, str, str]] = {}  # value -> its 8 bits, scale and zero point
        self.count = 0

    # Values

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node with one output; return the output's name."""
        return self.ops(kind, inputs, 1, **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: object) -> list[str]:
        """Add a node with several outputs; return their names."""
        self.count += 1
        names = [f"{kind}_{self.count}_{number}" for number in range(outputs)]
        self.nodes.append(
            self.onnx.helper.make_node(kind, list(inputs), names, name=f"{kind}_{self.count}", **attributes)
        )
        return names

    def constant(self, value: object, dtype: object = np.int64) -> str:
        """Return the name of a constant: ids and sizes by default."""
        array = np.asarray(value, dtype)
        name = f"{array.dtype}_{'x'.join(map(str, array.shape))}_{'_'.join(map(str, array.ravel()))}"
        self.initializers[name] = array
        return name

    def number(self, value: float) -> str:
        """Return the name of a constant in the computation type."""
        return self.constant(value, self.dtype)

    def weight(self, name: str) -> str:
        """Return the name of a weight in the computation type."""
        if name not in self.initializers:
            self.initializers[name] = self.weights[name].float().numpy().astype(self.dtype)
        return name

    def input(self, name: str, shape: Sequence[int | str], dtype: object = np.float32) -> str:
        """Declare an input; return the name of its value, cast to the computation type if it is float."""
        self.inputs.append(self._value(name, shape, dtype))
        return self._cast(name, self.dtype) if dtype is np.float32 else name

    def output(self, value: str, name: str, shape: Sequence[int | str]) -> None:
        """Declare a float value as an output, always in float32."""
        if self.dtype == np.float32:
            self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name], name=name))
        else:
            self.nodes.append(self.onnx.helper.make_node("Cast", [value], [name], name=name, to=self._type(np.float32)))
        self.outputs.append(self._value(name, shape, np.float32))

    def _value(self, name: str, shape: Sequence[int | str], dtype: object) -> ValueInfoProto:
        return self.onnx.helper.make_tensor_value_info(name, self._type(dtype), shape)

    def _type(self, dtype: object) -> int:
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def _cast(self, value: str, dtype: object) -> str:
        return value if dtype == np.float32 else self.op("Cast", value, to=self._type(dtype))

    def branch(self, condition: str, then: Callable[[], list[str]], otherwise: Callable[[], list[str]]) -> list[str]:
        """Add the nodes of two functions, of which a boolean selects one at run time; return the values of that one.

        The functions must compute the values that they return.
        """
        graphs = [self._subgraph(name, add) for name, add in (("then", then), ("otherwise", otherwise))]
        count = len(graphs[0].output)
        return self.ops("If", [condition], count, then_branch=graphs[0], else_branch=graphs[1])

    def _subgraph(self, name: str, add: Callable[[], list[str]]) -> GraphProto:
        nodes, rounded = self.nodes, self.rounded
        self.nodes, self.rounded = [], dict(rounded)  # values quantised here are not available outside
        outputs = [self.onnx.helper.make_tensor_value_info(value, self._type(self.dtype), None) for value in add()]
        graph = self.onnx.helper.make_graph(self.nodes, f"{name}_{self.count}", [], outputs)
        self.nodes, self.rounded = nodes, rounded
        return graph

    # Shapes

    def size(self, value: str, axis: int) -> str:
        """Return the size of an axis, shape (1,)."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def slice(self, value: str, start: str, end: str, axis: int) -> str:
        """Return a part of a value; start and end are values of shape (1,)."""
        return self.op("Slice", value, start, end, self.constant([axis]))

    def split_heads(self, value: str, heads: int) -> str:
        """(batch, positions, width) -> (batch, heads, positions, width / heads)."""
        return self.op("Transpose", self.op("Reshape", value, self.constant([0, 0, heads, -1])), perm=[0, 2, 1, 3])

    # Layers

    def linear(self, value: str, name: str) -> str:
        """Return the output of a linear layer."""
        product = self._product(value, f"{name}.weight")
        return self.op("Add", product, self.weight(f"{name}.bias")) if f"{name}.bias" in self.weights else product

    def _product(self, value: str, name: str) -> str:
        """Return value @ weight.T."""
        if self.quantized:
            self._quantize(name)
            return self._int8_product(value, f"{name}_int8", f"{name}_scale")
        return self.op("MatMul", value, self._transpose(self.weight(name)))

    def _transpose(self, weight: str) -> str:
        """Return a transposed matrix, shared by all branches.

        ONNX Runtime transposes it on load, so the file contains the embedding, which is also the last layer, once.
        """
        if weight not in self.transposed:
            nodes, self.nodes = self.nodes, self.top
            self.transposed[weight] = self.op("Transpose", weight, perm=[1, 0])
            self.nodes = nodes
        return self.transposed[weight]

    def _int8_product(self, value: str, weight: str, scale: str) -> str:
        if value not in self.rounded:
            self.rounded[value] = tuple(self.ops("DynamicQuantizeLinear", [value], 3))
        small, step, zero = self.rounded[value]
        product = self.op("MatMulInteger", small, self._transpose(weight), zero, self.constant(0, np.int8))
        return self.op("Mul", self.op("Cast", product, to=self._type(np.float32)), self.op("Mul", step, scale))

    def _quantize(self, name: str) -> None:
        """Add a matrix in int8, symmetric around 0, with a scale per row."""
        if f"{name}_int8" in self.initializers:
            return
        matrix = self.weights[name].float().numpy()
        scale = np.maximum(np.abs(matrix).max(axis=1), 1e-12) / INT8_LEVELS
        self.initializers[f"{name}_scale"] = scale
        self.initializers[f"{name}_int8"] = np.rint(matrix / scale[:, None]).astype(np.int8)

    def embed(self, ids: str, name: str) -> str:
        """Return rows of an embedding; in int8, it is shared with the last layer."""
        if not self.quantized:
            return self.op("Gather", self.weight(name), ids)
        self._quantize(name)
        rows = self.op("Cast", self.op("Gather", f"{name}_int8", ids), to=self._type(np.float32))
        return self.op("Mul", rows, self.op("Unsqueeze", self.op("Gather", f"{name}_scale", ids), self.constant([-1])))

    def logits(self, value: str) -> str:
        """Return the logits of the decoder's last hidden states: the embedding is the last layer."""
        return self._product(value, "decoder.embed_tokens.weight")

    def norm(self, value: str, name: str) -> str:
        """Return the output of a LayerNorm."""
        weights = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", value, *weights, axis=-1, epsilon=EPSILON)

    def gelu(self, value: str) -> str:
        """Return the exact GELU, in the nodes that ONNX Runtime fuses."""
        error = self.op("Erf", self.op("Div", value, self.number(2**0.5)))
        return self.op("Mul", self.op("Mul", value, self.op("Add", error, self.number(1.0))), self.number(0.5))

    def attention(self, query: str, key: str, value: str, name: str, heads: int, mask: str | None = None) -> str:
        """Return the output of an attention layer.

        Args:
            query: (batch, positions, width), before its projection.
            key: (batch, heads, positions, width / heads), after its projection.
            value: likewise.
            name: of the layer.
            heads: number of heads.
            mask: added to the scores, (positions of the query, positions of the key).
        """
        width = self.weights[f"{name}.q_proj.weight"].shape[0]
        query = self.op("Mul", self.linear(query, f"{name}.q_proj"), self.number((width // heads) ** -0.5))
        scores = self.op("MatMul", self.split_heads(query, heads), self.op("Transpose", key, perm=[0, 1, 3, 2]))
        if mask:
            scores = self.op("Add", scores, mask)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), value)
        merged = self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), self.constant([0, 0, width]))
        return self.linear(merged, f"{name}.out_proj")

    def feed_forward(self, value: str, name: str) -> str:
        """Return the value plus the output of a layer's feed-forward block."""
        inner = self.gelu(self.linear(self.norm(value, f"{name}.final_layer_norm"), f"{name}.fc1"))
        return self.op("Add", value, self.linear(inner, f"{name}.fc2"))

    def encoder(self, features: str, config: WhisperConfig) -> str:
        """Return the encoder's output, (batch, positions, width), for features (batch, mel bins, frames)."""
        hidden = features
        for number, stride in ((1, 1), (2, 2)):
            weights = self.weight(f"encoder.conv{number}.weight"), self.weight(f"encoder.conv{number}.bias")
            hidden = self.gelu(self.op("Conv", hidden, *weights, kernel_shape=[3], pads=[1, 1], strides=[stride]))
        hidden = self.op("Transpose", hidden, perm=[0, 2, 1])
        positions = self.weight("encoder.embed_positions.weight")
        hidden = self.op("Add", hidden, self.slice(positions, self.constant([0]), self.size(hidden, 1), 0))
        heads = config.encoder_attention_heads
        for number in range(config.encoder_layers):
            name = f"encoder.layers.{number}"
            own = self.norm(hidden, f"{name}.self_attn_layer_norm")
            key, value = (
                self.split_heads(self.linear(own, f"{name}.self_attn.{part}_proj"), heads) for part in ("k", "v")
            )
            hidden = self.op("Add", hidden, self.attention(own, key, value, f"{name}.self_attn", heads))
            hidden = self.feed_forward(hidden, name)
        return self.norm(hidden, "encoder.layer_norm")

    def decoder(
        self,
        ids: str,
        offset: str,
        config: WhisperConfig,
        cached: Callable[[int, str, str], tuple[str, str, str, str]],
    ) -> str:
        """Return the decoder's logits, (batch, positions, vocabulary); the caller manages the cache.

        Args:
            ids: (batch, positions), after those in the cache.
            offset: number of positions in the cache, shape (1,).
            config: of the model.
            cached: takes a layer's number and its new keys and values, (batch, positions, width); returns all keys and
                values of its self-attention and those of its cross-attention, (batch, heads, positions, width / heads).
        """
        heads = config.decoder_attention_heads
        end = self.op("Add", offset, self.size(ids, 1))
        hidden = self.embed(ids, "decoder.embed_tokens.weight")
        hidden = self.op("Add", hidden, self.slice(self.weight("decoder.embed_positions.weight"), offset, end, 0))
        mask = self._causal(offset, end)
        for number in range(config.decoder_layers):
            name = f"decoder.layers.{number}"
            own = self.norm(hidden, f"{name}.self_attn_layer_norm")
            new = (self.linear(own, f"{name}.self_attn.{part}_proj") for part in ("k", "v"))
            key, value, cross_key, cross_value = cached(number, *new)
            hidden = self.op("Add", hidden, self.attention(own, key, value, f"{name}.self_attn", heads, mask))
            query = self.norm(hidden, f"{name}.encoder_attn_layer_norm")
            crossed = self.attention(query, cross_key, cross_value, f"{name}.encoder_attn", heads)
            hidden = self.feed_forward(self.op("Add", hidden, crossed), name)
        return self.logits(self.norm(hidden, "decoder.layer_norm"))

    def _causal(self, offset: str, end: str) -> str:
        """Return the causal mask: positions from offset to end attend to themselves and all earlier ones."""
        first, last = (self.op("Squeeze", value, self.constant([0])) for value in (offset, end))
        one = self.constant(1)
        rows = self.op("Unsqueeze", self.op("Range", first, last, one), self.constant([1]))
        columns = self.op("Range", self.constant(0), last, one)
        seen = self.op("LessOrEqual", columns, rows)
        return self.op("Where", seen, self.number(0.0), self.number(-np.inf))

    # The file

    def save(self, path: Path, metadata: dict[str, object] | None = None) -> None:
        """Write the graph as a model; over 2 GB, protobuf's limit, its weights go to <name>_data next to it."""
        helper = self.onnx.helper
        tensors = [self.onnx.numpy_helper.from_array(array, name) for name, array in self.initializers.items()]
        graph = helper.make_graph(self.top, path.stem, self.inputs, self.outputs, tensors)
        opset = helper.make_opsetid("", OPSET)
        model: ModelProto = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
        model.producer_name = "whisper-recipe"
        helper.set_model_props(model, {key: str(value) for key, value in (metadata or {}).items()})
        large = sum(array.nbytes for array in self.initializers.values()) > MAX_PROTOBUF
        aside = {"save_as_external_data": True, "location": f"{path.name}_data"} if large else {}
        self.onnx.save_model(model, path, **aside)
