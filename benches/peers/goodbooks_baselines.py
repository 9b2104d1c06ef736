"""Baselines for `rating >= 4` on goodbooks-10k, judged on the last tenth of each user.

Split: file order is time order. Of a user with n rows in file order, the row at
position p (from 0) is test if 10 p >= 9 n, that is p >= ceil(0.9 n); else valid if
10 p >= 8 n; else train. All in integers.

average_rating, ratings_* and work_* of books.csv aggregate the future: not used.

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


def load(folder):
    data = os.path.join(folder, "goodbooks-10k")
    log = pd.read_csv(os.path.join(data, "ratings.csv.gz"))
    books = pd.read_csv(os.path.join(data, "books.csv.gz"), usecols=[
        "book_id", "books_count", "authors", "original_publication_year", "language_code"])
    log = log.merge(books, on="book_id", how="left")
    log["label"] = (log.rating >= 4).astype(float)
    log["language_code"] = log.language_code.fillna("missing")
    log["author"] = log.authors.str.split(", ").str[0]
    log["year"] = log.original_publication_year
    log["year_bucket"] = pd.qcut(log.year, 16, labels=False, duplicates="drop")
    log["editions_bucket"] = pd.qcut(log.books_count, 16, labels=False, duplicates="drop")
    return log


def split_of(users):
    groups = pd.Series(users).groupby(users)
    position, n = groups.cumcount().to_numpy(), groups.transform("size").to_numpy()
    return np.where(10 * position >= 9 * n, TEST, np.where(10 * position >= 8 * n, VALID, TRAIN))


def author_matrix(authors):
    """0/1 matrix `[rows, authors]` of all authors of each row's book."""
    lists = authors.str.split(", ")
    rows = np.repeat(np.arange(len(lists)), lists.str.len())
    values = np.unique(np.concatenate(lists.to_numpy()), return_inverse=True)[1]
    ones = np.ones(len(rows), np.float32)
    matrix = sp.csr_matrix((ones, (rows, values)))
    matrix.data[:] = 1
    return matrix


def trailing_features(log, keys, split, progressive):
    """Log-odds and log count of earlier positives a key, over file order.
    `progressive` also counts valid and test rows once they are past; frozen counts
    training rows only, and all of them for a valid or test row."""
    train = split == TRAIN
    order = np.arange(len(log))
    if not progressive:
        order = order + np.where(train, 0, len(log))
    prior = log.label[train].mean()
    columns = []
    for codes in keys.values():
        n, s = trailing_counts(codes, order, log.label, None if progressive else train)
        columns += [smoothed_logit(n, s, prior, 10.0), np.log1p(n)]
    return np.column_stack(columns)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder that holds goodbooks-10k/")
    parser.add_argument("--json", help="write the results here too")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    log = load(args.data)
    labels = log.label.to_numpy()
    split = split_of(log.user_id.to_numpy())
    scores = {name: [s] for name, s in
              mean_models(log.user_id, log.book_id, labels, split).items()}
    ids = [log.user_id, log.book_id]
    scores["logistic, ids"] = [one_hot_regression(ids, labels, split)]
    side = [log.author, log.language_code, log.year_bucket, log.editions_bucket]
    scores["logistic, ids + side"] = [
        one_hot_regression(ids + side + [author_matrix(log.authors)], labels, split)]
    keys = {"user": key_of(log.user_id), "book": key_of(log.book_id),
            "author": key_of(log.author), "language": key_of(log.language_code),
            "user_author": key_of(log.user_id, log.author)}
    x_side = log[["year", "books_count"]].to_numpy(float)

    def trees(features, seed):
        x = np.column_stack([features, x_side])
        return boosted_trees(x, np.zeros(x.shape[1], bool), labels, split, seed)

    seeds = range(args.seeds)
    scores["trees, out-of-fold means + side"] = [
        trees(out_of_fold_means(keys.values(), labels, split, s), s) for s in seeds]
    for name, progressive in (("frozen", False), ("progressive", True)):
        features = trailing_features(log, keys, split, progressive)
        scores[f"logistic, trailing ({name}) + side"] = [one_hot_regression(
            [log.language_code, log.year_bucket, log.editions_bucket] + [standardised(features, split)], labels, split)]
        scores[f"trees, trailing ({name}) + side"] = [trees(features, s) for s in seeds]
    results = {name: judge(s, labels, split) for name, s in scores.items()}
    report("goodbooks-10k", results, split, args.json)


if __name__ == "__main__":
    main()
