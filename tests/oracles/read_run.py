"""Reads a run's event files, shards and artifact with the packages that others use.

Usage: read_run.py RUN ARTIFACT
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run, artifact = Path(sys.argv[1]), Path(sys.argv[2])

# TensorBoard sees each number that the journal holds.
board = EventAccumulator(str(run / "tensorboard"))
board.Reload()
lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
assert lines, "the journal is empty"
for line in lines:
    for field in ("auc", "log_loss", "loss"):
        if field in line:
            scalars = board.Scalars(f"{line['kind']}/{field}")
            values = {event.step: event.value for event in scalars}
            assert len(values) == len(scalars), "a resumed run's steps stand twice"
            assert np.isclose(values[line["step"]], line[field], rtol=1e-6), (line, field)

# The shards of all ranks together are the tensors of the index.
newest = max(path.parent for path in run.glob("checkpoints/*/index.json"))
index = json.loads((newest / "index.json").read_text())
shards = [load_file(newest / shard["file"]) for shard in index["shards"]]
tensors = {}
for name, tensor in index["tensors"].items():
    parts = [shards[part["shard"]][part["key"]] for part in tensor["slices"]]
    tensors[name] = np.concatenate(parts)
    assert list(tensors[name].shape) == tensor["shape"], name
    assert np.isfinite(tensors[name]).all(), name

# The artifact's weights are those of a checkpoint, and its golden rows probabilities.
weights = load_file(artifact / "model.safetensors")
compared = [name for name in weights if not name.startswith("vocabulary.")]
assert compared, "the artifact has no weights"
for name in compared:
    assert weights[name].shape == tensors[name].shape, name
golden = load_file(artifact / "golden.safetensors")
assert any("prob" in name for name in golden), sorted(golden)
print(f"{len(lines)} records, {len(tensors)} tensors, {len(compared)} weights")
