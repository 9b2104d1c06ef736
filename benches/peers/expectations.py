"""Great Expectations and StreamRec on one suite over one Parquet file, one after the other.

Usage: expectations.py STREAMREC [ROWS] [COLUMNS]

STREAMREC is the program (target/release/streamrec). Needs great_expectations 1.24 and pyarrow. Both read the file
and judge the whole suite; the data is made once in the temporary folder. Prints seconds, the ratio, and whether all
verdicts agree.
"""

import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import great_expectations as gx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
program = sys.argv[1]
rows = int(sys.argv[2]) if len(sys.argv) > 2 else 3_000_000
columns = int(sys.argv[3]) if len(sys.argv) > 3 else 100
folder = Path(tempfile.gettempdir()) / f"streamrec-expectations-{rows}-{columns}"
data = folder / "data.parquet"
if not data.exists():
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(7)
    table = {f"x{place}": draw.normal(place, 1.0, rows) for place in range(columns - 4)}
    table["id"] = np.arange(rows)
    table["kind"] = draw.choice(["view", "click", "complete", "skip"], rows)
    table["age"] = draw.integers(0, 100, rows)
    table["code"] = np.char.add("A-", draw.integers(0, 999, rows).astype(str))
    pq.write_table(pa.table(table), data)

suite = []
for place in range(columns - 4):
    name = f"x{place}"
    suite.append(("expect_column_values_to_not_be_null", {"column": name}))
    suite.append(("expect_column_values_to_be_between", {"column": name, "min_value": place - 4, "max_value": place + 4,
                                                         "mostly": 0.99}))
    suite.append(("expect_column_mean_to_be_between", {"column": name, "min_value": place - 0.1, "max_value": place + 0.1}))
suite += [
    ("expect_column_values_to_be_unique", {"column": "id"}),
    ("expect_column_values_to_be_in_set", {"column": "kind", "value_set": ["view", "click", "complete", "skip"]}),
    ("expect_column_values_to_match_regex", {"column": "code", "regex": "^A-[0-9]+$"}),
    ("expect_column_quantile_values_to_be_between", {"column": "age", "quantile_ranges": {
        "quantiles": [0.1, 0.5, 0.9], "value_ranges": [[5, 15], [45, 55], [85, 95]]}}),
    ("expect_table_row_count_to_be_between", {"min_value": rows, "max_value": rows}),
]
document = {"name": "peers", "expectations": [{"type": kind, "kwargs": kwargs} for kind, kwargs in suite]}
(folder / "suite.json").write_text(json.dumps(document))

began = time.perf_counter()
result = folder / "result.json"
subprocess.run([program, "validate", "data", folder / "suite.json", data, "--json", result], check=False,
               stdout=subprocess.DEVNULL)
ours = time.perf_counter() - began
print(f"StreamRec: {ours:.2f} s for {len(suite)} expectations on {rows} rows x {columns} columns", flush=True)

context = gx.get_context(mode="ephemeral")
context.variables.progress_bars = {"globally": False}
asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("frame")
definition = asset.add_batch_definition_whole_dataframe("whole")
expected = context.suites.add(gx.ExpectationSuite(name="peers"))
for kind, kwargs in suite:
    expected.add_expectation(getattr(gx.expectations, "".join(part.capitalize() for part in kind.split("_")))(**kwargs))
began = time.perf_counter()
frame = pd.read_parquet(data)
read = time.perf_counter() - began
found = definition.get_batch(batch_parameters={"dataframe": frame}).validate(expected, result_format="BASIC")
theirs = time.perf_counter() - began
own = json.loads(result.read_text())
agree = sum(r.success for r in found.results) == own["statistics"]["successful_expectations"]
print(f"Great Expectations {gx.__version__}: {theirs:.2f} s, of which {read:.2f} s read")
print(f"ratio {theirs / ours:.1f}, verdicts {'agree' if agree else 'DIFFER'}")
