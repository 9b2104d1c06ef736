"""Great Expectations on the suite and the table of tables.py: expectations.py FOLDER

One JSON line. Time counts from opening the file to the results. Where benches/validation.rs has left its results.json
beside the table, every verdict and every count of unexpected values is compared with it first; another one is an error.
"""

import json
import logging
import resource
import sys
import time
import warnings
from pathlib import Path

import great_expectations as gx
import pandas as pd

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
folder = Path(sys.argv[1])
suite = json.loads((folder / "suite.json").read_text())

context = gx.get_context(mode="ephemeral")
context.variables.progress_bars = {"globally": False}
asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("frame")
definition = asset.add_batch_definition_whole_dataframe("whole")
expected = context.suites.add(gx.ExpectationSuite(name=suite["name"]))
for one in suite["expectations"]:
    name = "".join(part.capitalize() for part in one["type"].split("_"))
    expected.add_expectation(getattr(gx.expectations, name)(**one["kwargs"]))

began = time.perf_counter()
frame = pd.read_parquet(folder / "current.parquet")
read = time.perf_counter() - began
found = definition.get_batch(batch_parameters={"dataframe": frame}).validate(expected, result_format="BASIC")
seconds = time.perf_counter() - began


def verdicts(results):
    """By what is expected of which column: met or not, and how many values are unexpected."""
    def one(result):
        config = result["expectation_config"]
        return (config["type"], config["kwargs"].get("column")), (
            bool(result["success"]), result["result"].get("unexpected_count"))
    return dict(map(one, results))


ours = folder / "results.json"
if ours.exists():
    own = verdicts(json.loads(ours.read_text())["results"])
    theirs = verdicts([result.to_json_dict() for result in found.results])
    differ = {key: (own.get(key), value) for key, value in theirs.items() if own.get(key) != value}
    if differ or len(own) != len(theirs):
        sys.exit(f"verdicts differ, ours and theirs: {differ}")
print(json.dumps({
    "side": "Great Expectations", "version": gx.__version__, "ms": 1e3 * seconds, "read_ms": 1e3 * read,
    "expectations": len(found.results), "met": sum(bool(result.success) for result in found.results),
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}))
