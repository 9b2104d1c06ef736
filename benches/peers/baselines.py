"""Simple models that a ranker has to beat, on features and a split given by the caller."""

import json
import platform

import numpy as np
import scipy.sparse as sp
import sklearn
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from trailing import key_of, smoothed_logit

TRAIN, VALID, TEST = 0, 1, 2


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mean_offset(codes, labels, train, strength=5.0):
    """Smoothed training log-odds of each row's key, less those of the whole."""
    prior = labels[train].mean()
    size = codes.max() + 1
    n = np.bincount(codes[train], minlength=size).astype(float)
    s = np.bincount(codes[train], labels[train], minlength=size)
    return (smoothed_logit(n, s, prior, strength) - np.log(prior / (1 - prior)))[codes]


def mean_models(user, item, labels, split):
    """Constant, item mean, user mean and the sum of both in log-odds."""
    train = split == TRAIN
    base = np.log(labels[train].mean() / (1 - labels[train].mean()))
    by_item = mean_offset(key_of(item), labels, train)
    by_user = mean_offset(key_of(user), labels, train)
    return {
        "constant": np.full(len(labels), sigmoid(base)),
        "item mean": sigmoid(base + by_item),
        "user mean": sigmoid(base + by_user),
        "both means": sigmoid(base + by_item + by_user),
    }


def one_hot_regression(columns, labels, split, strengths=(0.03, 0.1, 0.3, 1.0)):
    """Logistic regression on one-hot columns; the L2 strength is chosen on valid.

    `columns` is a list of arrays of categories, or of sparse 0/1 matrices.
    """
    train = split == TRAIN
    blocks = []
    for column in columns:
        if sp.issparse(column):
            blocks.append(column)
            continue
        encoder = OneHotEncoder(handle_unknown="ignore", dtype=np.float32)
        values = np.asarray(column).astype(str).reshape(-1, 1)
        encoder.fit(values[train])
        blocks.append(encoder.transform(values))
    x = sp.hstack(blocks).tocsr()
    best = None
    for c in strengths:
        # The gradient of a rare category is of the order of its share of the rows: a
        # tolerance above that stops at once, far from the optimum.
        model = LogisticRegression(C=c, max_iter=1000, tol=1e-7).fit(x[train], labels[train])
        if model.n_iter_[0] >= model.max_iter:
            raise RuntimeError(f"logistic regression with C={c} did not converge "
                               f"in {model.max_iter} iterations: raise max_iter")
        scores = model.predict_proba(x)[:, 1]
        loss = log_loss(labels[split == VALID], scores[split == VALID])
        if best is None or loss < best[0]:
            best = (loss, scores)
    return best[1]


def standardised(features, split):
    """Numbers for a linear model, beside one-hot columns: mean 0 and deviation 1 on train."""
    train = features[split == TRAIN]
    deviation = np.maximum(train.std(axis=0), 1e-6)
    return sp.csr_matrix(((features - train.mean(axis=0)) / deviation).astype(np.float32))


def out_of_fold_means(keys, labels, split, seed, strength=10.0, folds=5):
    """Target means: of the other folds for training rows, of all training rows for
    the rest. Two columns a key: log-odds, log count."""
    train = np.flatnonzero(split == TRAIN)
    prior = labels[train].mean()
    fold = np.full(len(labels), -1)
    fold[train] = np.random.default_rng(seed).integers(0, folds, len(train))
    columns = []
    for codes in keys:
        size = codes.max() + 1
        n_all = np.bincount(codes[train], minlength=size).astype(float)
        s_all = np.bincount(codes[train], labels[train], minlength=size)
        n, s = n_all[codes], s_all[codes]
        for f in range(folds):
            own = fold == f
            n[own] -= np.bincount(codes[own], minlength=size)[codes[own]]
            s[own] -= np.bincount(codes[own], labels[own], minlength=size)[codes[own]]
        columns += [smoothed_logit(n, s, prior, strength), np.log1p(n)]
    return np.column_stack(columns)


def boosted_trees(x, categorical, labels, split, seed, leaves=(15, 31)):
    """Gradient-boosted trees, stopped early on valid; the leaf count is chosen there too.

    `categorical` marks the columns of `x` that hold small category codes.
    """
    train, valid = split == TRAIN, split == VALID
    best = None
    for leaf in leaves:
        model = HistGradientBoostingClassifier(
            learning_rate=0.05, max_leaf_nodes=leaf, max_iter=400, min_samples_leaf=50,
            l2_regularization=5.0, max_features=0.5, early_stopping=True,
            n_iter_no_change=15, categorical_features=categorical, random_state=seed)
        model.fit(x[train], labels[train], X_val=x[valid], y_val=labels[valid])
        loss = log_loss(labels[valid], model.predict_proba(x[valid])[:, 1])
        if best is None or loss < best[0]:
            best = (loss, model)
    return best[1].predict_proba(x)[:, 1]


def judge(scores_by_seed, labels, split):
    """AUC and log loss on test (and AUC on valid), mean and deviation over the seeds."""
    test, valid = split == TEST, split == VALID
    auc = [roc_auc_score(labels[test], s[test]) for s in scores_by_seed]
    loss = [log_loss(labels[test], s[test]) for s in scores_by_seed]
    valid_auc = [roc_auc_score(labels[valid], s[valid]) for s in scores_by_seed]
    return {
        "auc": float(np.mean(auc)), "auc_std": float(np.std(auc)),
        "log_loss": float(np.mean(loss)), "log_loss_std": float(np.std(loss)),
        "valid_auc": float(np.mean(valid_auc)), "seeds": len(scores_by_seed),
    }


def report(name, results, split, path):
    """Prints the table; writes it as JSON when a path is given."""
    rows = {part: int((split == code).sum())
            for part, code in (("train", TRAIN), ("valid", VALID), ("test", TEST))}
    print(f"{name}: train {rows['train']}, valid {rows['valid']}, test {rows['test']} rows")
    print(f"{'model':<40} {'test AUC':>8} {'±':>6} {'log loss':>8} {'valid AUC':>9} {'seeds':>5}")
    for model, r in results.items():
        print(f"{model:<40} {r['auc']:8.4f} {r['auc_std']:6.4f} {r['log_loss']:8.4f} "
              f"{r['valid_auc']:9.4f} {r['seeds']:5d}")
    if path:
        versions = {"python": platform.python_version(), "scikit-learn": sklearn.__version__,
                    "numpy": np.__version__}
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"data": name, "rows": rows, "versions": versions, "models": results},
                      file, indent=2)
