"""What the tests of support vector machines share: points, kernels, and Gram matrices entry by entry in NumPy."""

import functools

import numpy as np

from fundamentals import svm

RBF = functools.partial(svm.rbf_kernel, gamma=0.5)


CUBIC = functools.partial(svm.polynomial_kernel, degree=3, offset=0.5, gamma=0.7)


KERNELS = {"linear": svm.linear_kernel, "rbf": RBF, "cubic": CUBIC}


def gram(name, x, z):
    """The kernels once more, entry by entry."""
    if name == "rbf":
        return np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))
    products = (x[:, None] * z[None]).sum(-1)
    return products if name == "linear" else (0.7 * products + 0.5) ** 3


def blobs(seed, n, d=2, apart=1.0):
    random = np.random.default_rng(seed)
    y = np.where(np.arange(n) % 3 == 0, 1, -1)
    return random.normal(size=(n, d)) + 0.5 * apart * y[:, None], y
