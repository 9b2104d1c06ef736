"""Data-parallel training of DLRM in PyTorch over gloo, one JSON line from rank 0.

The model, the ids and the windows are those of pytorch_ranker.py; every rank holds all tables and reads its
share of each global batch, as in `benches/ranks.rs`. DistributedDataParallel sums dense gradients in its
buckets and the table's sparse ones by gloo's sparse all-reduce. Ranks of one thread, bound to a core each.
"""

import argparse
import json
import os
import statistics
import sys
import time

import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import preload
import pytorch_ranker


class Ranker(nn.Module):
    def __init__(self):
        super().__init__()
        tables, columns, dim = pytorch_ranker.INPUTS["dlrm"]
        self.shape = (-1, len(tables), dim)
        self.table = nn.EmbeddingBag(sum(tables), dim, mode="sum", sparse=True,
                                     include_last_offset=True)
        nn.init.uniform_(self.table.weight, -max(tables) ** -0.5, max(tables) ** -0.5)
        self.network = pytorch_ranker.MODELS["dlrm"](len(tables), columns, dim)

    def forward(self, dense, ids, offsets):
        return self.network(dense, self.table(ids, offsets).view(self.shape))


def work(rank, args, results):
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank % os.cpu_count()]})
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port))
    distributed.init_process_group("gloo", rank=rank, world_size=args.ranks)
    args.batch //= args.ranks
    args.seed += rank
    batches = pytorch_ranker.make_batches(args)
    ranker = Ranker()
    model = DistributedDataParallel(ranker, gradient_as_bucket_view=False)
    optimizers = [torch.optim.Adagrad(ranker.table.parameters(), lr=0.01),
                  torch.optim.Adagrad(ranker.network.parameters(), lr=0.01, foreach=True)]

    def step(dense, ids, offsets, label):
        loss = functional.binary_cross_entropy_with_logits(model(dense, ids, offsets), label)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss

    rates = [rate * args.ranks for rate in pytorch_ranker.measure(args, step, batches)]
    if rank == 0:
        results.put(rates)
    distributed.barrier()
    distributed.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8192, help="global")
    parser.add_argument("--zipf", type=float, default=1.05)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--windows", type=int, default=7)
    parser.add_argument("--window-steps", type=int, default=5)
    parser.add_argument("--port", type=int, default=29_511)
    preload.add_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.model, args.device, args.tables = "dlrm", "cpu", "stacked"
    preloaded = preload.restart(args)
    results = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(work, (args, results), nprocs=args.ranks)
    if results.empty():
        sys.exit("rank 0 measured nothing")
    rates = results.get()
    print(json.dumps({"samples_per_s": round(statistics.median(rates)),
                      "windows_samples_per_s": [round(rate) for rate in rates],
                      "versions": {"torch": torch.__version__} | preloaded,
                      "settings": {**vars(args), **preloaded}}))


if __name__ == "__main__":
    main()
