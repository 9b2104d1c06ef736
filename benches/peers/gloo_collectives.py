"""Speed of gloo's collectives between two processes, as benches/collectives.rs measures ours.

Prints a line of JSON for each collective and size: seconds of every round, of the slower rank.
"""

import json
import socket
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SIZES_BYTES = [1 << 20, 25 << 20, 100 << 20]
WARM_UP = 5
RANKS = 2


def measure(collective, size, rank):
    count = size // 4
    buffer, out = torch.zeros(count), torch.zeros(count)
    rounds = min(max((1 << 31) // size, 20), 400)
    seconds = []
    for number in range(WARM_UP + rounds):
        dist.barrier()
        start = time.perf_counter()
        if collective == "all-reduce":
            dist.all_reduce(buffer)
        else:
            dist.all_to_all_single(out, buffer)
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    slower = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(slower, op=dist.ReduceOp.MAX)
    if rank == 0:
        name = f"gloo (PyTorch {torch.__version__})"
        print(json.dumps({"name": name, "collective": collective, "bytes": size,
                          "seconds": slower.tolist()}), flush=True)


def run(rank, port):
    # One thread a rank: there are as many ranks as cores.
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    for size in SIZES_BYTES:
        for collective in ["all-reduce", "all-to-all"]:
            measure(collective, size, rank)
    dist.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    mp.spawn(run, (free_port,), nprocs=RANKS)
