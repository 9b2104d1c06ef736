"""Makes the tables that benches/validation.rs and its peers work on: tables.py FOLDER [--rows N] [--columns N]

reference.parquet and current.parquet (its numbers moved a little): normal numbers, and four columns of an id, a kind of
event, an age and a code; suite.json, a suite of Great Expectations on them, three to four expectations a column.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_AT_ONCE = 250_000


def table(draw, first, rows, columns, moved):
    made = {f"x{place}": draw.normal(place + moved, 1.0, rows) for place in range(columns - 4)}
    made["id"] = np.arange(first, first + rows)
    made["kind"] = draw.choice(["view", "click", "complete", "skip"], rows)
    made["age"] = draw.integers(0, 100, rows)
    made["code"] = np.char.add("A-", draw.integers(0, 999, rows).astype(str))
    return pa.table(made)


def write(path, seed, rows, columns, moved):
    draw, writer = np.random.default_rng(seed), None
    for first in range(0, rows, ROWS_AT_ONCE):
        part = table(draw, first, min(ROWS_AT_ONCE, rows - first), columns, moved)
        writer = writer or pq.ParquetWriter(path, part.schema)
        writer.write_table(part)
    writer.close()


def suite(rows, columns):
    made = []
    for place in range(columns - 4):
        column = {"column": f"x{place}"}
        made += [
            ("expect_column_values_to_not_be_null", column),
            ("expect_column_values_to_be_between",
             column | {"min_value": place - 4, "max_value": place + 4, "mostly": 0.99}),
            ("expect_column_mean_to_be_between", column | {"min_value": place - 0.1, "max_value": place + 0.1}),
        ]
    made += [
        ("expect_column_values_to_be_unique", {"column": "id"}),
        ("expect_column_values_to_be_in_set", {"column": "kind", "value_set": ["view", "click", "complete", "skip"]}),
        ("expect_column_values_to_match_regex", {"column": "code", "regex": "^A-[0-9]+$"}),
        ("expect_column_quantile_values_to_be_between", {"column": "age", "quantile_ranges": {
            "quantiles": [0.1, 0.5, 0.9], "value_ranges": [[5, 15], [45, 55], [85, 95]]}}),
        ("expect_table_row_count_to_be_between", {"min_value": rows, "max_value": rows}),
    ]
    return {"name": "peers", "expectations": [{"type": kind, "kwargs": kwargs} for kind, kwargs in made]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--columns", type=int, default=100)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    write(args.folder / "reference.parquet", 7, args.rows, args.columns, 0.0)
    write(args.folder / "current.parquet", 8, args.rows, args.columns, 0.05)
    (args.folder / "suite.json").write_text(json.dumps(suite(args.rows, args.columns)))


if __name__ == "__main__":
    main()
