"""The time of a ranker for requests of 500 candidates in ONNX Runtime, as one JSON line.

`cargo bench --bench candidates` writes the folder that this reads: the weights, the graph and the
requests. The graph becomes an ONNX model of the same operations, runs on one thread with every
optimisation on, and its scores are compared with StreamRec's before anything is timed.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

OPSET = 17


class Exporter:
    """ONNX nodes of a StreamRec graph; one id a feature."""

    def __init__(self, graph, features, weights):
        self.graph, self.weights = graph, weights
        self.features = [feature["name"] for feature in features]
        self.nodes, self.constants, self.width = [], {}, {}

    def constant(self, name, value):
        # A scalar must stay one, which ascontiguousarray would not let it.
        value = np.asarray(value, order="C")
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def weight(self, name, transposed=False):
        value = self.weights[name]
        return self.constant(name, value.T if transposed else value)

    def add(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def value(self, name, inputs, op):
        kind, settings = next(iter(op.items())) if isinstance(op, dict) else (op, {})
        return getattr(self, f"make_{kind}")(name, inputs, **settings)

    def make_dense(self, name, _):
        return self.add("Identity", ["request.dense"], name)

    def make_embedding_bag(self, name, _, lookups):
        parts = []
        for index, lookup in enumerate(lookups):
            feature = self.constant(f"{name}.{index}.feature",
                                    np.int64(self.features.index(lookup["feature"])))
            ids = self.add("Gather", ["request.ids", feature], f"{name}.{index}.ids", axis=0)
            table = self.weight(f"embedding.{lookup['table']}")
            parts.append(self.add("Gather", [table, ids], f"{name}.{index}"))
        return self.add("Concat", parts, name, axis=1)

    def make_linear(self, name, reads, bias, activation="none", **_):
        operands = [reads[0], self.weight(f"{name}.weight")]
        operands += [self.weight(f"{name}.bias")] if bias else []
        relu = activation == "relu"
        output = self.add("Gemm", operands, f"{name}.sums" if relu else name, transB=1)
        return self.add("Relu", [output], name) if relu else output

    def make_concat(self, name, reads):
        return self.add("Concat", reads, name, axis=1)

    def make_dot_interaction(self, name, reads, features, dim):
        shape = self.constant(f"{name}.shape", np.array([-1, features, dim], np.int64))
        vectors = self.add("Reshape", [reads[0], shape], f"{name}.vectors")
        turned = self.add("Transpose", [vectors], f"{name}.turned", perm=[0, 2, 1])
        products = self.add("MatMul", [vectors, turned], f"{name}.products")
        flat = self.constant(f"{name}.flat", np.array([-1, features * features], np.int64))
        products = self.add("Reshape", [products, flat], f"{name}.all")
        rows, columns = np.tril_indices(features, -1)
        pairs = self.constant(f"{name}.pairs", (rows * features + columns).astype(np.int64))
        pairs = self.add("Gather", [products, pairs], f"{name}.triangle", axis=1)
        bounds = [self.constant(f"{name}.{part}", np.array([value], np.int64))
                  for part, value in (("start", 0), ("end", dim), ("axis", 1))]
        first = self.add("Slice", [reads[0], *bounds], f"{name}.first")
        return self.add("Concat", [first, pairs], name, axis=1)

    def make_cross_low_rank(self, name, reads, **_):
        inner = self.add("MatMul", [reads[1], self.weight(f"{name}.v", True)], f"{name}.inner")
        projection = self.add("Gemm", [inner, self.weight(f"{name}.w"),
                                       self.weight(f"{name}.bias")], f"{name}.sums", transB=1)
        product = self.add("Mul", [reads[0], projection], f"{name}.product")
        return self.add("Add", [product, reads[1]], name)

    def model(self, has_dense):
        values = {}
        for node in self.graph["nodes"]:
            inputs = [values[name] for name in node.get("inputs", [])]
            values[node["name"]] = self.value(node["name"], inputs, node["op"])
        self.add("Sigmoid", [values[self.graph["output"]]], "scores")
        inputs = [helper.make_tensor_value_info("request.ids", TensorProto.INT64,
                                                [len(self.features), "rows"])]
        if has_dense:
            inputs.append(helper.make_tensor_value_info("request.dense", TensorProto.FLOAT,
                                                        ["rows", "dense_features"]))
        output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 1])
        graph = helper.make_graph(self.nodes, "ranker", inputs, [output],
                                  list(self.constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)],
                                 ir_version=10)


def session(folder, has_dense):
    description = json.loads((folder / "graph.json").read_text())
    weights = load_file(folder / "model.safetensors")
    model = Exporter(description["graph"], description["features"], weights).model(has_dense)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options,
                                        providers=["CPUExecutionProvider"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--warm-up", type=int, default=64)
    parser.add_argument("--requests", type=int, default=1000)
    args = parser.parse_args()
    requests = load_file(args.folder / "requests.safetensors")
    has_dense = requests["dense"].shape[2] > 0
    runner = session(args.folder, has_dense)
    count = len(requests["ids"])
    names = ["ids", "dense"] if has_dense else ["ids"]
    feeds = [{f"request.{name}": requests[name][i] for name in names} for i in range(count)]
    for feed, expected in zip(feeds, requests["scores"]):
        difference = np.abs(runner.run(None, feed)[0][:, 0] - expected).max()
        if not difference < 1e-5:
            sys.exit(f"scores differ by {difference}: the two do not run one model")
    times = []
    for number in range(args.warm_up + args.requests):
        began = time.perf_counter()
        runner.run(None, feeds[number % count])
        times.append(time.perf_counter() - began)
    times = np.sort(times[args.warm_up:]) * 1e6
    print(json.dumps({
        "side": "ONNX Runtime", "model": args.model, "candidates": feeds[0]["request.ids"].shape[1],
        "threads": 1, "p50_us": round(times[len(times) // 2]),
        "p99_us": round(times[int(0.99 * len(times))]), "requests": args.requests,
        "versions": {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__},
    }))


if __name__ == "__main__":
    main()
