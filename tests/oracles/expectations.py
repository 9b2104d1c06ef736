"""What Great Expectations says of data made here: writes data, a suite and its verdicts to a folder.

Usage: expectations.py FOLDER [SEED] [ROWS]

Needs great_expectations 1.24 and pyarrow. `tests/oracles/expectations/` was written by
`expectations.py tests/oracles/expectations 1 1500`; tests run it again where STREAMREC_GX_PYTHON names a Python
that has it.
"""

import json
import logging
import sys
import warnings
from pathlib import Path

import great_expectations as gx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
folder = Path(sys.argv[1])
seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
rows = int(sys.argv[3]) if len(sys.argv) > 3 else 1500
folder.mkdir(parents=True, exist_ok=True)
draw = np.random.default_rng(seed)


def nulls(values, share):
    holes = draw.random(rows) < share
    return [None if hole else value for hole, value in zip(holes, values.tolist())]


clients = draw.choice(["ios", "android", "web"], rows, p=[0.2, 0.5, 0.3])
durations = draw.gamma(2.0, 30.0, rows)
table = pa.table({
    "user_id": pa.array(draw.integers(1, rows // 2, rows)),
    "event_id": pa.array(np.arange(rows)),
    "session_id": pa.array(nulls(draw.integers(0, rows * 20, rows), 0.1)),
    "event_type": pa.array(draw.choice(["view", "click", "complete", "skip", "bookmark"], rows,
                                       p=[0.6, 0.2, 0.1, 0.09, 0.01])),
    "client": pa.array(clients),
    "duration_seconds": pa.array([None if draw.random() < (0.68 if client == "ios" else 0.2) else value
                                  for client, value in zip(clients, durations.tolist())]),
    "watched_seconds": pa.array(nulls(durations * draw.random(rows) * 1.02, 0.1)),
    "rating": pa.array(draw.integers(1, 6, rows), pa.int32()),
    "score": pa.array(draw.normal(0.0, 1.0, rows)),
    "share": pa.array(draw.random(rows), pa.float32()),
    "is_new": pa.array(draw.random(rows) < 0.3),
    "published": pa.array(pd.to_datetime("2026-01-01") + pd.to_timedelta(draw.integers(0, 10**7, rows), unit="s")),
    "code": pa.array(nulls(np.char.add(draw.choice(["A-", "B-", "x"], rows, p=[0.6, 0.39, 0.01]),
                                       draw.integers(0, 99, rows).astype(str)), 0.05)),
})
quantiles = np.quantile(durations, [0.1, 0.5, 0.9])
bins = [-3.0, -1.0, 0.0, 1.0, 3.0]
normal = [0.1573, 0.3413, 0.3413, 0.1573]
column, pair, compound, whole = "expect_column_", "expect_column_pair_values_", "expect_compound_columns_", "expect_table_"
suite = [
    (column + "values_to_not_be_null", {"column": "user_id"}),
    (column + "values_to_not_be_null", {"column": "duration_seconds"}),
    (column + "values_to_not_be_null", {"column": "duration_seconds", "mostly": 0.6}),
    (column + "values_to_not_be_null", {"column": "duration_seconds", "mostly": 0.7,
                                        "row_condition": 'client=="ios"', "condition_parser": "pandas"}),
    (column + "values_to_not_be_null", {"column": "duration_seconds", "mostly": 0.7,
                                        "row_condition": 'client=="web"', "condition_parser": "pandas"}),
    (column + "values_to_be_between", {"column": "duration_seconds", "min_value": 0, "max_value": 200}),
    (column + "values_to_be_between", {"column": "duration_seconds", "min_value": 0, "max_value": 200, "mostly": 0.95}),
    (column + "values_to_be_between", {"column": "rating", "min_value": 1, "max_value": 5}),
    (column + "values_to_be_between", {"column": "rating", "min_value": 1, "max_value": 5, "strict_min": True}),
    (column + "values_to_be_between", {"column": "rating", "min_value": 1, "max_value": 5, "strict_max": True,
                                       "mostly": 0.75}),
    (column + "values_to_be_between", {"column": "session_id", "min_value": 100, "mostly": 0.999}),
    (column + "values_to_be_between", {"column": "share", "max_value": 0.5}),
    (column + "values_to_be_in_set", {"column": "event_type", "value_set": ["view", "click", "complete", "skip"]}),
    (column + "values_to_be_in_set", {"column": "event_type", "value_set": ["view", "click", "complete", "skip"],
                                      "mostly": 0.95}),
    (column + "values_to_be_in_set", {"column": "rating", "value_set": [1, 2, 3, 4, 5]}),
    (column + "values_to_be_in_set", {"column": "rating", "value_set": [1.0, 2.0, 9.0]}),
    (column + "values_to_be_unique", {"column": "event_id"}),
    (column + "values_to_be_unique", {"column": "session_id"}),
    (column + "values_to_be_unique", {"column": "user_id", "mostly": 0.1}),
    (column + "values_to_match_regex", {"column": "code", "regex": "^[AB]-[0-9]+$"}),
    (column + "values_to_match_regex", {"column": "code", "regex": "^[AB]-", "mostly": 0.9}),
    (column + "values_to_be_of_type", {"column": "user_id", "type_": "int64"}),
    (column + "values_to_be_of_type", {"column": "rating", "type_": "int64"}),
    (column + "values_to_be_of_type", {"column": "rating", "type_": "int32"}),
    (column + "values_to_be_of_type", {"column": "session_id", "type_": "int64"}),
    (column + "values_to_be_of_type", {"column": "session_id", "type_": "float64"}),
    (column + "values_to_be_of_type", {"column": "share", "type_": "float32"}),
    (column + "values_to_be_of_type", {"column": "client", "type_": "str"}),
    (column + "values_to_be_of_type", {"column": "is_new", "type_": "bool"}),
    (compound + "to_be_unique", {"column_list": ["user_id", "event_type"]}),
    (compound + "to_be_unique", {"column_list": ["event_id", "event_type"]}),
    (compound + "to_be_unique", {"column_list": ["session_id", "code"], "ignore_row_if": "any_value_is_missing"}),
    (compound + "to_be_unique", {"column_list": ["session_id", "code"], "ignore_row_if": "never", "mostly": 0.9}),
    (pair + "a_to_be_greater_than_b", {"column_A": "duration_seconds", "column_B": "watched_seconds",
                                       "ignore_row_if": "either_value_is_missing"}),
    (pair + "a_to_be_greater_than_b", {"column_A": "duration_seconds", "column_B": "watched_seconds", "or_equal": True,
                                       "ignore_row_if": "either_value_is_missing", "mostly": 0.9}),
    (pair + "a_to_be_greater_than_b", {"column_A": "duration_seconds", "column_B": "watched_seconds"}),
    (whole + "row_count_to_be_between", {"min_value": rows, "max_value": rows + 10}),
    (whole + "row_count_to_be_between", {"min_value": rows, "strict_min": True}),
    (whole + "columns_to_match_set", {"column_set": ["user_id", "client"], "exact_match": False}),
    (whole + "columns_to_match_set", {"column_set": ["user_id", "client"], "exact_match": True}),
    (whole + "columns_to_match_set", {"column_set": ["user_id", "platform"], "exact_match": False}),
    (column + "mean_to_be_between", {"column": "score", "min_value": -0.2, "max_value": 0.2}),
    (column + "mean_to_be_between", {"column": "duration_seconds", "min_value": 0, "max_value": 10}),
    (column + "mean_to_be_between", {"column": "session_id", "min_value": 0}),
    (column + "quantile_values_to_be_between", {"column": "duration_seconds", "quantile_ranges": {
        "quantiles": [0.1, 0.5, 0.9],
        "value_ranges": [[0, 1.2 * quantiles[0]], [None, 1.2 * quantiles[1]], [0.8 * quantiles[2], None]]}}),
    (column + "quantile_values_to_be_between", {"column": "score", "allow_relative_error": "linear", "quantile_ranges": {
        "quantiles": [0.0, 0.25, 1.0], "value_ranges": [[-10, 0], [0, 1], [0, 10]]}}),
    (column + "quantile_values_to_be_between", {"column": "rating", "quantile_ranges": {
        "quantiles": [0.05, 0.33, 0.77], "value_ranges": [[1, 1], [2, 2], [4, 4]]}}),
    (column + "kl_divergence_to_be_less_than", {"column": "score", "threshold": 0.1, "tail_weight_holdout": 0.0028,
                                                "partition_object": {"bins": bins, "weights": [w / sum(normal) for w in normal]}}),
    (column + "kl_divergence_to_be_less_than", {"column": "score", "threshold": 0.001, "partition_object": {
        "bins": bins, "weights": [0.1, 0.4, 0.3, 0.1], "tail_weights": [0.05, 0.05]}}),
    (column + "kl_divergence_to_be_less_than", {"column": "score", "threshold": 5.0, "internal_weight_holdout": 0.1,
                                                "tail_weight_holdout": 0.1, "partition_object": {
                                                    "bins": bins, "weights": [0.0, 0.5, 0.5, 0.0]}}),
    (column + "kl_divergence_to_be_less_than", {"column": "event_type", "threshold": 0.1, "tail_weight_holdout": 0.02,
                                                "partition_object": {
                                                    "values": ["view", "click", "complete", "skip"],
                                                    "weights": [0.6, 0.2, 0.1, 0.1]}}),
    (column + "kl_divergence_to_be_less_than", {"column": "event_type", "threshold": 0.1, "partition_object": {
        "values": ["view", "click", "complete", "skip"], "weights": [0.6, 0.2, 0.1, 0.1]}}),
    (column + "kl_divergence_to_be_less_than", {"column": "rating", "threshold": 0.1, "partition_object": {
        "values": [1, 2, 3, 4, 5, 6], "weights": [0.2, 0.2, 0.2, 0.2, 0.1, 0.1]}}),
    # What pandas would raise on is not met here either.
    (column + "values_to_not_be_null", {"column": "absent"}),
    (column + "values_to_be_between", {"column": "client", "min_value": 0, "max_value": 1}),
]
# Times have their limits as text, which only data frames from Parquet know.
times = [
    (column + "values_to_be_between", {"column": "published", "min_value": "2026-01-01T00:00:00", "mostly": 0.5}),
]
left_out = {"float32", "int32"}


def written(expectations):
    return {"name": "oracle", "meta": {"great_expectations_version": gx.__version__},
            "expectations": [{"type": kind, "kwargs": kwargs, "meta": {}, "severity": "critical"}
                             for kind, kwargs in expectations]}


def verdicts(frame, document):
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = context.data_sources.add_pandas("pandas").add_dataframe_asset("frame")
    definition = batch.add_batch_definition_whole_dataframe("whole")
    suite = context.suites.add(gx.ExpectationSuite(name="oracle"))
    for place, entry in enumerate(document["expectations"]):
        name = "".join(part.capitalize() for part in entry["type"].split("_"))
        name = name.replace("KlDivergence", "KLDivergence").replace("PairValuesAToBeGreaterThanB", "PairValuesAToBeGreaterThanB")
        suite.add_expectation(getattr(gx.expectations, name)(**entry["kwargs"], meta={"place": place}))
    batch = definition.get_batch(batch_parameters={"dataframe": frame})
    found = batch.validate(suite, result_format="SUMMARY").to_json_dict()
    # GX may order its results by column.
    results = [None] * len(document["expectations"])
    for result in found["results"]:
        place = result["expectation_config"]["meta"]["place"]
        keep = ("element_count", "unexpected_count", "unexpected_percent", "missing_count", "missing_percent",
                "unexpected_percent_total", "unexpected_percent_nonmissing", "observed_value")
        results[place] = {"success": result["success"],
                          "raised": any(info.get("raised_exception", False)
                                        for info in ([result["exception_info"]]
                                                     if "raised_exception" in result["exception_info"]
                                                     else result["exception_info"].values())),
                          "result": {name: value for name, value in result["result"].items() if name in keep}}
    assert None not in results
    return {"success": found["success"], "statistics": found["statistics"], "results": results}


pq.write_table(table, folder / "events.parquet", row_group_size=rows // 3, compression="zstd")
frame = pd.read_parquet(folder / "events.parquet")
# GX 1.24 understands limits of times as text only where pandas holds nanoseconds.
frame["published"] = frame["published"].astype("datetime64[ns]")
document = written(suite + times)
(folder / "suite.json").write_text(json.dumps(document, indent=1))
(folder / "verdicts.json").write_text(json.dumps(verdicts(frame, document), indent=1, default=lambda value: value.item()))

frame.drop(columns="published").to_csv(folder / "events.csv", index=False)
document = written([(kind, kwargs) for kind, kwargs in suite if kwargs.get("type_") not in left_out])
(folder / "csv_suite.json").write_text(json.dumps(document, indent=1))
(folder / "csv_verdicts.json").write_text(
    json.dumps(verdicts(pd.read_csv(folder / "events.csv"), document), indent=1, default=lambda value: value.item()))
