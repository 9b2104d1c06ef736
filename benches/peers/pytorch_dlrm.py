"""Training throughput of DLRM in PyTorch on a CPU, as one JSON line.

The model is the one that StreamRec trains: 13 dense inputs through a bottom MLP
512-256-64, 26 tables of 100,000 rows x 64, the dense vector as slot 0 of the dot
interaction, the strict lower triangle of the 27 x 27 products in row-major order
after the 64 dense outputs (415 inputs), a top MLP 512-256-1, binary cross-entropy.
One stacked table with offset ids, sparse gradients, Adagrad for all, fp32.

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

import numpy as np
import torch
from torch import nn
from torch.nn import functional

TABLES, DENSE, DIM = 26, 13, 64
# The fastest first, as measured with scripts/bench.
ALLOCATORS = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4", "libjemalloc.so.2")
LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64",
                   "/usr/lib", "/usr/local/lib")


def preload_allocator(choice):
    """Starts this script anew with jemalloc or tcmalloc preloaded, where one is found."""
    if choice == "system" or "PEER_ALLOCATOR" in os.environ:
        return os.environ.get("PEER_ALLOCATOR", "system")
    wanted = [name for name in ALLOCATORS if choice == "auto" or choice in name]
    for name in wanted:
        for folder in LIBRARY_FOLDERS:
            path = os.path.join(folder, name)
            if os.path.exists(path):
                os.environ["PEER_ALLOCATOR"] = name
                os.environ["LD_PRELOAD"] = path
                os.environ.setdefault("MALLOC_CONF", "oversize_threshold:1,"
                                      "background_thread:true,metadata_thp:auto,"
                                      "dirty_decay_ms:-1,muzzy_decay_ms:-1")
                os.execv(sys.executable, [sys.executable, *sys.argv])
    if choice != "auto":
        sys.exit(f"allocator {choice} not found in {', '.join(LIBRARY_FOLDERS)}: install it, "
                 "or pass --allocator system")
    return "system"


def mlp(sizes, last_relu):
    layers = []
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        layers.append(nn.Linear(inputs, outputs))
        if last_relu or i + 2 < len(sizes):
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class DenseNetwork(nn.Module):
    """All of DLRM but the tables: pooled vectors `[batch, tables, dim]` to logits."""

    def __init__(self):
        super().__init__()
        self.bottom = mlp([DENSE, 512, 256, DIM], last_relu=True)
        slots = TABLES + 1
        rows, columns = torch.tril_indices(slots, slots, offset=-1)
        self.register_buffer("triangle", rows * slots + columns)
        self.top = mlp([DIM + slots * (slots - 1) // 2, 512, 256, 1], last_relu=False)

    def forward(self, dense, pooled):
        x = self.bottom(dense)
        slots = torch.cat([x.unsqueeze(1), pooled], dim=1)
        products = torch.bmm(slots, slots.transpose(1, 2)).flatten(1)
        pairs = products.index_select(1, self.triangle)
        return self.top(torch.cat([x, pairs], dim=1)).squeeze(1)


def zipf_ids(generator, count, rows, exponent):
    """`count` ids in [0, rows) with P(rank r) ~ r^-exponent, ranks scrambled."""
    cumulative = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -exponent)
    ranks = np.searchsorted(cumulative / cumulative[-1], generator.random(count), side="right")
    return generator.permutation(rows)[np.minimum(ranks, rows - 1)]


def make_batches(args):
    generator = np.random.default_rng(args.seed)
    total = args.batches * args.batch
    ids = np.stack([zipf_ids(generator, total, args.rows, args.zipf) + t * args.rows
                    for t in range(TABLES)], axis=1)
    offsets = torch.arange(args.batch * TABLES + 1)
    batches = []
    for i in range(args.batches):
        part = slice(i * args.batch, (i + 1) * args.batch)
        dense = torch.from_numpy(generator.standard_normal((args.batch, DENSE), np.float32))
        label = torch.from_numpy((generator.random(args.batch) < 0.25).astype(np.float32))
        batches.append((dense, torch.from_numpy(ids[part].reshape(-1).copy()), offsets, label))
    return batches


def make_step(args):
    table = nn.EmbeddingBag(TABLES * args.rows, DIM, mode="sum", sparse=True,
                            include_last_offset=True)
    nn.init.uniform_(table.weight, -args.rows ** -0.5, args.rows ** -0.5)
    network = DenseNetwork()
    forward = torch.compile(network) if args.compile else network
    optimizers = [torch.optim.Adagrad(table.parameters(), lr=0.01),
                  torch.optim.Adagrad(network.parameters(), lr=0.01, foreach=True)]

    def step(dense, ids, offsets, label):
        pooled = table(ids, offsets).view(-1, TABLES, DIM)
        loss = functional.binary_cross_entropy_with_logits(forward(dense, pooled), label)
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
    for _ in range(args.warm_up):
        step(*batches[position % len(batches)])
        position += 1
    rates = []
    for _ in range(args.windows):
        start = time.perf_counter()
        for _ in range(args.window_steps):
            loss = step(*batches[position % len(batches)])
            position += 1
        rates.append(args.window_steps * args.batch / (time.perf_counter() - start))
    if not np.isfinite(loss.item()):
        sys.exit(f"loss is {loss.item()} after {position} steps: the run measures nothing")
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of each table")
    parser.add_argument("--zipf", type=float, default=1.05)
    parser.add_argument("--batches", type=int, default=8, help="distinct batches, cycled")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--windows", type=int, default=7)
    parser.add_argument("--window-steps", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile the dense part")
    parser.add_argument("--allocator", default="auto",
                        choices=("auto", "jemalloc", "tcmalloc", "system"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    allocator = preload_allocator(args.allocator)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rates = measure(args, make_step(args), make_batches(args))
    print(json.dumps({
        "samples_per_s": round(statistics.median(rates)),
        "windows_samples_per_s": [round(rate) for rate in rates],
        "versions": {"torch": torch.__version__, "python": platform.python_version(),
                     "numpy": np.__version__},
        "settings": {**vars(args), "allocator": allocator, "tables": TABLES, "dim": DIM,
                     "precision": torch.get_float32_matmul_precision(),
                     "cpu": torch.backends.cpu.get_cpu_capability()},
    }))


if __name__ == "__main__":
    main()
