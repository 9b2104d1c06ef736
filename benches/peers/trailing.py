"""Trailing counts: what was known of a key strictly before each row."""

import numpy as np


def trailing_counts(keys, times, labels, counted=None):
    """Returns `(n, s)`: for each row, how many rows of the same key came strictly
    earlier, and the sum of their labels.

    Rows with equal times do not see one another. `counted` masks the rows that may
    be seen; by default all may. Masking all but the training rows freezes the state
    at the end of training.
    """
    keys, times = np.asarray(keys), np.asarray(times)
    weight = np.ones(len(keys)) if counted is None else np.asarray(counted, float)
    value = np.asarray(labels, float) * weight
    order = np.lexsort((times, keys))
    k, t = keys[order], times[order]
    n = np.cumsum(weight[order]) - weight[order]
    s = np.cumsum(value[order]) - value[order]
    new_key = np.r_[True, k[1:] != k[:-1]]
    new_time = new_key | np.r_[True, t[1:] != t[:-1]]
    position = np.arange(len(k))
    key_start = np.maximum.accumulate(np.where(new_key, position, 0))
    time_start = np.maximum.accumulate(np.where(new_time, position, 0))
    out_n, out_s = np.empty(len(k)), np.empty(len(k))
    out_n[order] = n[time_start] - n[key_start]
    out_s[order] = s[time_start] - s[key_start]
    return out_n, out_s


def key_of(*columns):
    """One integer code for each distinct combination of the columns."""
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, inverse = np.unique(np.asarray(column).astype(str), return_inverse=True)
        code = np.unique(code * len(values) + inverse, return_inverse=True)[1]
    return code


def smoothed_logit(n, s, prior, strength):
    """Log-odds of the rate `(s + strength * prior) / (n + strength)`."""
    rate = (s + strength * prior) / (n + strength)
    return np.log(rate / (1 - rate))
