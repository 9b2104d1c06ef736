"""Training throughput of a ranker in PyTorch, as one JSON line.

The models are those of benches/ranker.rs:

dlrm       13 dense inputs through a bottom MLP 512-256-64, 26 tables of 100,000 rows x 64,
           the dense vector as slot 0 of the dot interaction, the strict lower triangle of the
           27 x 27 products in row-major order after the 64 dense outputs (415 inputs), a top
           MLP 512-256-1
dcn_v2     the same inputs; the dense ones through one layer to 64, three cross layers of rank
           128 over all 1,728, an MLP 512-256-1
streamrec  8 tables (200,000, 50,000 and six of 1,000 rows) x 32, an MLP 256-128-64-1
dlrm_h200  as dlrm, with 26 tables of 1,000,000 rows x 128, bottom 512-256-128, top 1024-1024-512-256-1
dcn_v2_h200  the same inputs and bottom, three cross layers of rank 512 over all 3,456, an MLP
           1024-1024-512-256-1

STREAMREC_SCALE divides rows and widths of the last two, to try them on small machines. Binary cross-entropy, one stacked table with offset ids, sparse gradients, Adagrad for all;
fp32, or bf16 by autocast. With --device cuda, batches lie in pinned memory and are copied
while the GPU still works on the step before.

Ids follow a Zipf law, scrambled by a permutation of each table's own. Batches are
made before the clock starts and cycled.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from functools import partial
from importlib import metadata

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import preload

SCALE = int(os.environ.get("STREAMREC_SCALE", "1"))


def scaled(*widths):
    """Multiples of 8, as those of benches/ranker.rs."""
    return [max(width // SCALE, 8) for width in widths]


# Rows of each table, dense inputs, width of the vectors.
LARGE = ([max(1_000_000 // SCALE, 1)] * 26, 13, scaled(128)[0])
INPUTS = {
    "dlrm": ([100_000] * 26, 13, 64),
    "dcn_v2": ([100_000] * 26, 13, 64),
    "streamrec": ([200_000, 50_000] + [1_000] * 6, 0, 32),
    "dlrm_h200": LARGE,
    "dcn_v2_h200": LARGE,
}


def mlp(sizes, last_relu):
    layers = []
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        layers.append(nn.Linear(inputs, outputs))
        if last_relu or i + 2 < len(sizes):
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class Dlrm(nn.Module):
    """All of DLRM but the tables: pooled vectors `[batch, tables, dim]` to logits."""

    def __init__(self, tables, dense, dim, bottom=(512, 256), top=(512, 256)):
        super().__init__()
        self.bottom = mlp([dense, *bottom, dim], last_relu=True)
        slots = tables + 1
        rows, columns = torch.tril_indices(slots, slots, offset=-1)
        self.register_buffer("triangle", rows * slots + columns)
        self.top = mlp([dim + slots * (slots - 1) // 2, *top, 1], last_relu=False)

    def forward(self, dense, pooled):
        x = self.bottom(dense)
        slots = torch.cat([x.unsqueeze(1), pooled.to(x.dtype)], dim=1)
        products = torch.bmm(slots, slots.transpose(1, 2)).flatten(1)
        pairs = products.index_select(1, self.triangle)
        return self.top(torch.cat([x, pairs], dim=1)).squeeze(1)


class DcnV2(nn.Module):
    """Cross layers `x0 * (W (V x) + b) + x` of low rank, then an MLP."""

    def __init__(self, tables, dense, dim, bottom=(), layers=3, rank=128, deep=(512, 256)):
        super().__init__()
        width = (tables + 1) * dim
        self.bottom = mlp([dense, *bottom, dim], last_relu=True)
        self.v = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in range(layers))
        self.w = nn.ModuleList(nn.Linear(rank, width) for _ in range(layers))
        self.deep = mlp([width, *deep, 1], last_relu=False)

    def forward(self, dense, pooled):
        x0 = self.bottom(dense)
        x0 = torch.cat([x0, pooled.flatten(1).to(x0.dtype)], dim=1)
        x = x0
        for v, w in zip(self.v, self.w):
            x = x0 * w(v(x)) + x
        return self.deep(x).squeeze(1)


class StreamRec(nn.Module):
    """An MLP over the vectors side by side."""

    def __init__(self, tables, _dense, dim):
        super().__init__()
        self.deep = mlp([tables * dim, 256, 128, 64, 1], last_relu=False)

    def forward(self, _dense, pooled):
        return self.deep(pooled.flatten(1)).squeeze(1)


BOTTOM, TOP = scaled(512, 256), scaled(1024, 1024, 512, 256)
MODELS = {
    "dlrm": Dlrm,
    "dcn_v2": DcnV2,
    "streamrec": StreamRec,
    "dlrm_h200": partial(Dlrm, bottom=BOTTOM, top=TOP),
    "dcn_v2_h200": partial(DcnV2, bottom=BOTTOM, rank=scaled(512)[0], deep=TOP),
}


def zipf_ids(generator, count, rows, exponent):
    """`count` ids in [0, rows) with P(rank r) ~ r^-exponent, ranks scrambled."""
    cumulative = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -exponent)
    ranks = np.searchsorted(cumulative / cumulative[-1], generator.random(count), side="right")
    return generator.permutation(rows)[np.minimum(ranks, rows - 1)]


def make_batches(args):
    tables, columns, _ = INPUTS[args.model]
    generator = np.random.default_rng(args.seed)
    total = args.batches * args.batch
    starts = np.cumsum([0, *tables])
    ids = np.stack([zipf_ids(generator, total, rows, args.zipf) + start
                    for rows, start in zip(tables, starts)], axis=1)
    offsets = torch.arange(args.batch * len(tables) + 1)
    by_table = args.tables == "fbgemm"
    if by_table:
        ids -= starts[:-1]
    batches = []
    for i in range(args.batches):
        part = slice(i * args.batch, (i + 1) * args.batch)
        dense = torch.from_numpy(generator.standard_normal((args.batch, columns), np.float32))
        label = torch.from_numpy((generator.random(args.batch) < 0.25).astype(np.float32))
        own = ids[part].T if by_table else ids[part]
        batch = (dense, torch.from_numpy(own.reshape(-1).copy()), offsets, label)
        pinned = args.device == "cuda"
        batches.append(tuple(tensor.pin_memory() if pinned else tensor for tensor in batch))
    return batches


class Tables(nn.Module):
    """Pooled vectors `[batch, tables, dim]` of one stacked table, or of one module a table."""

    def __init__(self, rows, dim, device, separate):
        super().__init__()
        self.rows, self.dim = rows, dim
        bag = partial(nn.EmbeddingBag, embedding_dim=dim, mode="sum", sparse=True,
                      include_last_offset=True, device=device)
        counts = rows if separate else [sum(rows)]
        self.bags = nn.ModuleList(bag(count) for count in counts)
        for one in self.bags:
            nn.init.uniform_(one.weight, -max(rows) ** -0.5, max(rows) ** -0.5)

    def forward(self, ids, offsets):
        if len(self.bags) == 1:
            return self.bags[0](ids, offsets).view(-1, len(self.rows), self.dim)
        columns = ids.view(-1, len(self.rows))
        offsets = offsets[:columns.shape[0] + 1]
        starts = np.cumsum([0, *self.rows])
        return torch.stack([bag(columns[:, i] - start, offsets)
                            for i, (bag, start) in enumerate(zip(self.bags, starts))], dim=1)


class FbgemmTables(nn.Module):
    """The same of FBGEMM's tables on a CPU, which update their rows while they go backward; ids table by table."""

    def __init__(self, rows, dim):
        super().__init__()
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen)
        self.shape = (-1, len(rows), dim)
        self.bags = SplitTableBatchedEmbeddingBagsCodegen(
            [(count, dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for count in rows],
            optimizer=EmbOptimType.EXACT_ADAGRAD, learning_rate=0.01, eps=1e-10,
            pooling_mode=PoolingMode.SUM, device=torch.device("cpu"))
        self.bags.init_embedding_weights_uniform(-max(rows) ** -0.5, max(rows) ** -0.5)

    def forward(self, ids, offsets):
        return self.bags(ids, offsets).view(self.shape)


def make_step(args):
    rows, columns, dim = INPUTS[args.model]
    fused = args.tables == "fbgemm"
    table = FbgemmTables(rows, dim) if fused else Tables(rows, dim, args.device, args.tables == "separate")
    network = MODELS[args.model](len(rows), columns, dim).to(args.device)
    forward = torch.compile(network) if args.compile else network
    optimizers = [] if fused else [torch.optim.Adagrad(table.parameters(), lr=0.01)]
    optimizers.append(torch.optim.Adagrad(network.parameters(), lr=0.01, foreach=True))
    half = args.precision == "bf16"

    def step(*batch):
        dense, ids, offsets, label = (tensor.to(args.device, non_blocking=True) for tensor in batch)
        pooled = table(ids, offsets)
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=half):
            logits = forward(dense, pooled)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), label)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss

    return step


def measure(args, step, batches):
    """Samples a second of each window."""
    position = 0
    finish = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    for _ in range(args.warm_up):
        step(*batches[position % len(batches)])
        position += 1
    rates = []
    for _ in range(args.windows):
        finish()
        start = time.perf_counter()
        for _ in range(args.window_steps):
            loss = step(*batches[position % len(batches)])
            position += 1
        finish()
        rates.append(args.window_steps * args.batch / (time.perf_counter() - start))
    if not np.isfinite(loss.item()):
        sys.exit(f"loss is {loss.item()} after {position} steps: the run measures nothing")
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--model", choices=sorted(MODELS), default="dlrm")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--zipf", type=float, default=1.05)
    parser.add_argument("--batches", type=int, default=8, help="distinct batches, cycled")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--windows", type=int, default=7)
    parser.add_argument("--window-steps", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile the dense part")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tables", choices=("stacked", "separate", "fbgemm"), default="stacked",
                        help="one table with offset ids, one module each, or FBGEMM's on a CPU")
    preload.add_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.tables == "fbgemm" and args.device != "cpu":
        parser.error("--tables fbgemm: only on a CPU")
    preloaded = preload.restart(args) if args.device == "cpu" else {}
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rates = measure(args, make_step(args), make_batches(args))
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else None
    versions = {"torch": torch.__version__, "python": platform.python_version(), "numpy": np.__version__}
    if args.tables == "fbgemm":
        # Of the PyTorch that FBGEMM loads into, which is not that of the other peers.
        versions = {"fbgemm": f"{metadata.version('fbgemm-gpu-cpu')} with torch {torch.__version__}"}
    print(json.dumps({
        "peer": "PyTorch",
        "model": args.model,
        "device": args.device,
        "gpu": gpu,
        "samples_per_s": round(statistics.median(rates)),
        "windows_samples_per_s": [round(rate) for rate in rates],
        "versions": versions | preloaded,
        "settings": {**vars(args), **preloaded,
                     "cpu": torch.backends.cpu.get_cpu_capability()},
    }))


if __name__ == "__main__":
    main()
