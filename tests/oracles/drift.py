"""What SciPy and Evidently say of pairs of distributions made here, which the tests make again.

Usage: drift.py > tests/oracles/drift.json

Needs evidently 0.7 and scipy.
"""

import json
import math

import numpy as np
import pandas as pd
from evidently.legacy.calculations.stattests.jensenshannon import _jensenshannon
from evidently.legacy.calculations.stattests.psi import _psi
from evidently.legacy.calculations.stattests.wasserstein_distance_norm import _wasserstein_distance_norm
from evidently.legacy.core import ColumnType
from scipy import stats

GOLDEN = 0.6180339887498949


def uniform(count, start):
    return [math.fmod((start + index) * GOLDEN, 1.0) for index in range(count)]


def exponential(count, start, scale, shift=0.0):
    return [shift - scale * math.log(1.0 - value) for value in uniform(count, start)]


def stairs(count, start, levels):
    return [float(math.floor(value * value * levels)) for value in uniform(count, start)]


cases = {
    "exponential": (exponential(240, 1, 1.0), exponential(240, 1000, 1.2)),
    "shifted": (exponential(250, 1, 1.0), exponential(200, 7, 1.0, 0.7)),
    "stairs": (stairs(250, 1, 6), stairs(250, 3, 8)),
    "large": (exponential(50_000, 1, 1.0), exponential(60_000, 77_777, 1.25)),
    "large_stairs": (stairs(50_000, 1, 6), stairs(40_000, 3, 7)),
}
found = {}
for name, (reference, current) in cases.items():
    reference, current = pd.Series(reference), pd.Series(current)
    ks = stats.ks_2samp(reference, current, method="asymp")
    found[name] = {
        "psi": _psi(reference, current, ColumnType.Numerical, 0.1)[0],
        "jensen_shannon": _jensenshannon(reference, current, ColumnType.Numerical, 0.1)[0],
        "wasserstein": _wasserstein_distance_norm(reference, current, ColumnType.Numerical, 0.1)[0],
        "ks": ks.statistic,
        "ks_p": ks.pvalue,
    }
found["keys"] = {
    "psi": _psi(pd.Series(["a"] * 60 + ["b"] * 30 + ["c"] * 10), pd.Series(["a"] * 40 + ["b"] * 40 + ["d"] * 20),
                ColumnType.Categorical, 0.1)[0],
    "jensen_shannon": _jensenshannon(pd.Series(["a"] * 60 + ["b"] * 30 + ["c"] * 10),
                                     pd.Series(["a"] * 40 + ["b"] * 40 + ["d"] * 20), ColumnType.Categorical, 0.1)[0],
}
print(json.dumps(found, indent=1, default=float))
