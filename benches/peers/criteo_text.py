"""Text in Criteo's format: makes a file, and times pandas and polars reading it, one JSON line each.

    criteo_text.py make FILE [--rows 2000000]
    criteo_text.py read FILE --with pandas-c | pandas-arrow | polars | polars-lazy | polars-parquet

A line is a label, 13 counts (some missing) and 26 hexadecimal hashes of 8 digits (some missing), parted
by tabs. Readers get the types and names that they need, so that nothing is guessed. `polars-parquet` also
writes what it read, as an import does.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time

NAMES = ["click"] + [f"I{i}" for i in range(1, 14)] + [f"C{i}" for i in range(1, 27)]
CHUNK_ROWS = 200_000


def make(path, rows, seed=7):
    import numpy as np
    import polars as pl
    random = np.random.default_rng(seed)
    sizes = random.integers(20, 400_000, 26)
    words = [np.array([f"{word:08x}" for word in random.integers(0, 1 << 32, size)])
             for size in sizes]
    with open(path, "wb") as file:
        for begin in range(0, rows, CHUNK_ROWS):
            count = min(CHUNK_ROWS, rows - begin)
            columns = {"click": (random.random(count) < 0.25).astype(np.int8)}
            for name in NAMES[1:14]:
                values = pl.Series(np.floor(random.lognormal(2.0, 1.8, count)).astype(np.int64))
                columns[name] = values.set(pl.Series(random.random(count) < 0.15), None)
            for name, known in zip(NAMES[14:], words):
                places = (len(known) * random.random(count) ** 3).astype(np.int64)
                values = pl.Series(known[places])
                columns[name] = values.set(pl.Series(random.random(count) < 0.05), None)
            pl.DataFrame(columns).write_csv(file, separator="\t", include_header=False)


def read_pandas(path, engine):
    import pandas as pd
    types = {name: "float32" for name in NAMES[:14]} | {name: "string" for name in NAMES[14:]}
    if engine == "c":
        return len(pd.read_csv(path, sep="\t", header=None, names=NAMES, dtype=types,
                               na_filter=True, engine="c")), pd.__version__
    return len(pd.read_csv(path, sep="\t", header=None, names=NAMES, dtype_backend="pyarrow",
                           engine="pyarrow")), pd.__version__


def read_polars(path, way):
    import polars as pl
    types = {name: pl.Int64 for name in NAMES[:14]} | {name: pl.String for name in NAMES[14:]}
    settings = {"separator": "\t", "has_header": False, "schema": types, "quote_char": None,
                "low_memory": False}
    if way == "eager":
        return pl.read_csv(path, **settings).height, pl.__version__
    lazy = pl.scan_csv(path, **settings)
    if way == "lazy":
        return lazy.collect(engine="streaming").height, pl.__version__
    folder = os.environ.get("STREAMREC_OUT_PARENT", tempfile.gettempdir())
    with tempfile.NamedTemporaryFile(suffix=".parquet", dir=folder) as out:
        lazy.sink_parquet(out.name, compression="uncompressed")
        os.fsync(out.fileno())
        return pl.scan_parquet(out.name).select(pl.len()).collect().item(), pl.__version__


READERS = {
    "pandas-c": lambda path: read_pandas(path, "c"),
    "pandas-arrow": lambda path: read_pandas(path, "pyarrow"),
    "polars": lambda path: read_polars(path, "eager"),
    "polars-lazy": lambda path: read_polars(path, "lazy"),
    "polars-parquet": lambda path: read_polars(path, "parquet"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("make", "read"))
    parser.add_argument("file")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--with", dest="reader", choices=READERS)
    parser.add_argument("--windows", type=int, default=3)
    args = parser.parse_args()
    if args.action == "make":
        return make(args.file, args.rows)
    rates = []
    for _ in range(args.windows):
        began = time.perf_counter()
        rows, version = READERS[args.reader](args.file)
        rates.append(round(rows / (time.perf_counter() - began)))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"side": args.reader, "version": version, "rows": rows,
                      "rows_per_s": statistics.median(rates), "windows": sorted(rates),
                      "peak_memory": f"{peak_mib} MiB"}))


if __name__ == "__main__":
    main()
