"""Evidently on the tables of tables.py: drift.py FOLDER [--columns N] [--method psi] [--summary]

One JSON line: drift of each column from the reference by one statistic, Evidently's own choice (Wasserstein distance,
Jensen-Shannon distance) where --method says none, and with --summary its summary of each column, too. Time counts from
opening the files to the report's results. --columns takes the first N columns only.
"""

import argparse
import json
import resource
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset, DataSummaryPreset

warnings.simplefilter("ignore")
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("--columns", type=int)
parser.add_argument("--method")
parser.add_argument("--summary", action="store_true")
args = parser.parse_args()

names = pq.read_schema(args.folder / "current.parquet").names[: args.columns]
texts = [name for name in names if name in ("kind", "code")]
definition = DataDefinition(numerical_columns=[name for name in names if name not in texts],
                            categorical_columns=texts)
presets = [DataDriftPreset(**({"method": args.method} if args.method else {}))]
if args.summary:
    presets.append(DataSummaryPreset())

began = time.perf_counter()
current, reference = (
    Dataset.from_pandas(pd.read_parquet(args.folder / f"{name}.parquet", columns=names), data_definition=definition)
    for name in ("current", "reference"))
read = time.perf_counter() - began
result = Report(presets).run(current, reference).dict()
seconds = time.perf_counter() - began
print(json.dumps({
    "side": "Evidently", "version": version("evidently"), "ms": 1e3 * seconds, "read_ms": 1e3 * read,
    "columns": len(names), "metrics": len(result["metrics"]),
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}))
