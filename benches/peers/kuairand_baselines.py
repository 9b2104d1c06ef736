"""Baselines for clicks on KuaiRand-Pure (10 days), judged on the last tenth by time.

Split: rows sorted by `time_ms` (stable). With n rows, a cut starts at floor(0.8 n)
and floor(0.9 n) and moves later until it does not part equal timestamps: train is
before the first cut, valid between, test after the second.

Columns that happen after the impression (play_time_ms, long_view, is_like, ...) are
never features of their own row; trailing counts use them from earlier rows only.

Models named `frozen` see counts of training rows only, like the means, the regressions
and the out-of-fold trees. Models named `progressive` also see the labels of earlier
valid and test rows: compare those only with models of the same protocol.
"""

import argparse
import os

import numpy as np
import pandas as pd
import scipy.sparse as sp

from baselines import (TEST, TRAIN, VALID, boosted_trees, judge, mean_models,
                       one_hot_regression, out_of_fold_means, report,
                       standardised)
from trailing import key_of, smoothed_logit, trailing_counts

USER_SIDE = ["user_active_degree", "is_live_streamer", "is_video_author",
             "follow_user_num_range", "fans_user_num_range", "friend_user_num_range",
             "register_days_range"] + [f"onehot_feat{i}" for i in range(18)]
VIDEO_SIDE = ["author_id", "video_type", "upload_dt", "upload_type", "music_id",
              "music_type", "tag"]
USER_NUMBERS = ["follow_user_num", "fans_user_num", "friend_user_num", "register_days"]


def load(folder):
    data = os.path.join(folder, "kuairand-pure", "data")
    log = pd.read_csv(os.path.join(data, "log_standard_4_25_to_5_04_pure.csv.gz"))
    log = log.sort_values("time_ms", kind="stable").reset_index(drop=True)
    users = pd.read_csv(os.path.join(data, "user_features_pure.csv.gz"))
    videos = pd.read_csv(os.path.join(data, "video_features_basic_pure.csv.gz"))
    log = log.merge(users, on="user_id", how="left").merge(videos, on="video_id", how="left")
    log["hour"] = pd.to_datetime(log.time_ms + 8 * 3_600_000, unit="ms").dt.hour
    log["duration_bucket"] = pd.qcut(log.duration_ms, 16, labels=False, duplicates="drop")
    return log


def split_of(times):
    n = len(times)
    split = np.full(n, TRAIN)
    for fraction, part in ((0.8, VALID), (0.9, TEST)):
        cut = int(n * fraction)
        while cut < n and times[cut] == times[cut - 1]:
            cut += 1
        split[cut:] = part
    return split


def tag_matrix(tags):
    """0/1 matrix `[rows, tags]` of the comma-separated tags of each row."""
    lists = tags.fillna("").astype(str).str.split(",")
    rows = np.repeat(np.arange(len(lists)), lists.str.len())
    values = np.unique(np.concatenate(lists.to_numpy()), return_inverse=True)[1]
    return sp.csr_matrix((np.ones(len(rows), np.float32), (rows, values)))


def target_keys(log):
    return {name: key_of(*(log[c] for c in columns)) for name, columns in {
        "user": ["user_id"], "video": ["video_id"], "author": ["author_id"], "tag": ["tag"],
        "tab": ["tab"], "user_tab": ["user_id", "tab"], "video_tab": ["video_id", "tab"],
        "user_tag": ["user_id", "tag"]}.items()}


def tree_side(log):
    """Numbers as they are, small categories as codes; returns (matrix, is_categorical)."""
    columns, categorical = [], []
    for c in USER_NUMBERS + ["duration_ms", "video_duration", "server_width",
                             "server_height", "hour", "onehot_feat3", "onehot_feat7",
                             "onehot_feat8", "onehot_feat2", "onehot_feat5"]:
        columns.append(log[c].to_numpy(float))
        categorical.append(False)
    for c in ["tab", "user_active_degree", "is_live_streamer", "is_video_author",
              "upload_type", "video_type", "music_type", "upload_dt", "onehot_feat0",
              "onehot_feat1", "onehot_feat4", "onehot_feat6"] + [
                  f"onehot_feat{i}" for i in range(9, 18)]:
        columns.append(key_of(log[c]).astype(float))
        categorical.append(True)
    return np.column_stack(columns), np.array(categorical)


def trailing_features(log, keys, split, progressive):
    """Log-odds and log count of earlier clicks a key, and log-odds of earlier long views
    of user and video. `progressive` also counts valid and test rows once they are past."""
    train = split == TRAIN
    counted = None if progressive else train
    columns = []
    for name, codes in keys.items():
        for label in ("is_click", "long_view"):
            if label == "long_view" and name not in ("user", "video"):
                continue
            y = log[label].to_numpy(float)
            n, s = trailing_counts(codes, log.time_ms, y, counted)
            columns += [smoothed_logit(n, s, y[train].mean(), 10.0), np.log1p(n)]
    return np.column_stack(columns)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder that holds kuairand-pure/")
    parser.add_argument("--json", help="write the results here too")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    log = load(args.data)
    labels = log.is_click.to_numpy(float)
    split = split_of(log.time_ms.to_numpy())
    scores = {name: [s] for name, s in
              mean_models(log.user_id, log.video_id, labels, split).items()}
    ids = [log.user_id, log.video_id]
    scores["logistic, ids"] = [one_hot_regression(ids, labels, split)]
    side = [log[c] for c in USER_SIDE + VIDEO_SIDE + ["tab", "hour", "duration_bucket"]]
    scores["logistic, ids + side + context"] = [
        one_hot_regression(ids + side + [tag_matrix(log.tag)], labels, split)]
    keys = target_keys(log)
    x_side, side_categorical = tree_side(log)

    def trees(features, seed):
        x = np.column_stack([features, x_side])
        categorical = np.r_[np.zeros(features.shape[1], bool), side_categorical]
        return boosted_trees(x, categorical, labels, split, seed)

    seeds = range(args.seeds)
    scores["trees, out-of-fold means + side"] = [
        trees(out_of_fold_means(keys.values(), labels, split, s), s) for s in seeds]
    for name, progressive in (("frozen", False), ("progressive", True)):
        features = trailing_features(log, keys, split, progressive)
        scores[f"logistic, trailing ({name}) + side"] = [one_hot_regression(
            side + [standardised(features, split)], labels, split)]
        scores[f"trees, trailing ({name}) + side"] = [trees(features, s) for s in seeds]
    results = {name: judge(s, labels, split) for name, s in scores.items()}
    report("kuairand-pure", results, split, args.json)


if __name__ == "__main__":
    main()
