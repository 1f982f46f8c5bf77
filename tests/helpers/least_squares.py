"""Ridge regression by another way, for tests."""

import numpy as np


def dense(x, y, penalty):
    """Ridge as least squares with a row more for each weight, on the whole matrix."""
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    z = (x - mean) / deviation
    more = np.sqrt(penalty * len(x)) * np.eye(x.shape[1])
    targets = np.concatenate([y - y.mean(axis=0), np.zeros((x.shape[1], y.shape[1]))])
    weights = np.linalg.lstsq(np.concatenate([z, more]), targets)[0]
    kernel = weights / deviation[:, None]
    return kernel, y.mean(axis=0) - mean @ kernel
