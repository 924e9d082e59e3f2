"""Peers of the field regressor with a number of parameters that is given, tuned inside a time that is given."""

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import RidgeCV, SGDRegressor
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ALPHAS = np.logspace(-3, 4, 15)
Candidates = Callable[[int, int, int], Iterator[Any]]


class RBFNetwork(RegressorMixin, BaseEstimator):
    """Gaussian bumps at cluster centres, and a ridge regression on them."""

    def __init__(self, num_centres: int = 50, gamma: float = 0.1, seed: int = 0) -> None:
        self.num_centres, self.gamma, self.seed = num_centres, gamma, seed

    def fit(self, X: np.ndarray, y: np.ndarray) -> "RBFNetwork":
        clusters = KMeans(min(self.num_centres, len(X)), n_init=1, random_state=self.seed).fit(X)
        self.centres_ = clusters.cluster_centers_
        self.line_ = RidgeCV(ALPHAS).fit(self._features(X), y)
        return self

    def _features(self, X: np.ndarray) -> np.ndarray:
        return np.hstack([rbf_kernel(X, self.centres_, gamma=self.gamma / X.shape[1]), X])

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.line_.predict(self._features(X))


class TopKMixture(RegressorMixin, BaseEstimator):
    """Linear experts under a softmax gate cut to its k largest (Shazeer et al. 2017), trained by Adam."""

    def __init__(self, experts: int = 16, k: int = 2, rate: float = 0.01, epochs: int = 60, seed: int = 0) -> None:
        self.experts, self.k, self.rate, self.epochs, self.seed = experts, k, rate, epochs, seed

    def fit(self, X: np.ndarray, y: np.ndarray) -> "TopKMixture":
        generator = torch.Generator().manual_seed(self.seed)
        x, goals = torch.tensor(X, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
        self.scale_ = float(goals.mean()), float(goals.std()) + 1e-12
        goals = (goals - self.scale_[0]) / self.scale_[1]
        width = x.shape[1] + 1
        self.tables_ = [
            (0.3 * torch.randn(self.experts, width, generator=generator)).requires_grad_() for _ in range(2)
        ]
        optimizer = torch.optim.Adam(self.tables_, lr=self.rate)
        for epoch in range(self.epochs):
            for group in optimizer.param_groups:
                group["lr"] = self.rate * (1 - epoch / self.epochs)
            for ids in torch.randperm(len(x), generator=generator).split(64):
                loss = (self._value(x[ids]) - goals[ids]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return self

    def _value(self, x: torch.Tensor) -> torch.Tensor:
        ones = torch.cat([x, x.new_ones(len(x), 1)], 1)
        best = (ones @ self.tables_[0].T).topk(min(self.k, self.experts), 1)
        return ((ones @ self.tables_[1].T).gather(1, best.indices) * best.values.softmax(1)).sum(1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self._value(torch.tensor(X, dtype=torch.float32)).numpy() * self.scale_[1] + self.scale_[0]


class ScaledTarget(RegressorMixin, BaseEstimator):
    """A regressor of targets that have zero mean and unit variance."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def fit(self, X: np.ndarray, y: np.ndarray) -> "ScaledTarget":
        self.mean_, self.std_ = y.mean(), y.std() + 1e-12
        with warnings.catch_warnings():
            # a network that is cut off at its number of epochs is one of the settings.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.inner.fit(X, (y - self.mean_) / self.std_)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.inner.predict(X) * self.std_ + self.mean_


class Neighbours(KNeighborsRegressor):
    """k nearest by distance, or all of them where there are fewer."""

    def __init__(self, n_neighbors: int = 8) -> None:
        super().__init__(n_neighbors, weights="distance")

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Neighbours":
        self.n_neighbors = min(self.n_neighbors, len(X))
        return super().fit(X, y)


def _ridge(width: int, params: int, seed: int) -> Iterator[Any]:
    yield RidgeCV(ALPHAS)


def _fourier(width: int, params: int, seed: int) -> Iterator[Any]:
    # a feature has a direction, a phase and a weight.
    number = max(8, params // (width + 2))
    for gamma in (0.1, 0.3, 0.03, 1.0):
        yield make_pipeline(RBFSampler(gamma=gamma / width, n_components=number, random_state=seed), RidgeCV(ALPHAS))


def _rbf(width: int, params: int, seed: int) -> Iterator[Any]:
    for gamma in (0.3, 0.1, 1.0, 0.03):
        yield RBFNetwork(max(4, params // (width + 1)), gamma, seed)


def _neighbours(width: int, params: int, seed: int) -> Iterator[Any]:
    for k in (8, 4, 16, 2, 32):
        yield Neighbours(k)


def _mlp(width: int, params: int, seed: int) -> Iterator[Any]:
    hidden = max(4, params // (width + 2))
    settings = ((1e-2, 3e-3, 150), (1e-2, 3e-3, 600), (1.0, 3e-3, 600), (1e-4, 1e-2, 600), (1e-2, 1e-2, 600))
    for alpha, rate, epochs in settings:
        network = MLPRegressor(
            hidden_layer_sizes=(hidden,), alpha=alpha, learning_rate_init=rate, max_iter=epochs, random_state=seed
        )
        yield ScaledTarget(network)


def _mixture(width: int, params: int, seed: int) -> Iterator[Any]:
    experts = max(2, params // (2 * (width + 1)))
    for k, rate in ((4, 0.02), (2, 0.02), (8, 0.02), (4, 0.005)):
        yield TopKMixture(experts, min(k, experts), rate, seed=seed)


PEERS: dict[str, Candidates] = {
    "ridge": _ridge,
    "random Fourier features": _fourier,
    "RBF network": _rbf,
    "kNN": _neighbours,
    "MLP": _mlp,
    "top-k mixture": _mixture,
}


def tuned(name: str, X: np.ndarray, y: np.ndarray, params: int, seconds: float, seed: int) -> tuple[Any, int]:
    """Return the peer of the best setting, fitted to everything, and how many settings fitted in the time.

    The first setting is always tried; each later one only if the time that one took is still left.
    """
    scaled = StandardScaler().fit(X)
    inside, held, goals, truth = train_test_split(scaled.transform(X), y, test_size=0.2, random_state=seed)
    start, longest, best, tried = time.perf_counter(), 0.0, None, 0
    for candidate in PEERS[name](X.shape[1], params, seed):
        begin = time.perf_counter()
        # the refit at the end costs about as much as one more setting.
        if tried and begin - start + 2 * longest > seconds:
            break
        error = float(((candidate.fit(inside, goals).predict(held) - truth) ** 2).mean())
        longest = max(longest, time.perf_counter() - begin)
        tried += 1
        if best is None or error < best[0]:
            best = error, candidate
    assert best is not None
    return make_pipeline(scaled, best[1].fit(scaled.transform(X), y)), tried


def stream_peers(seed: int) -> dict[str, Any]:
    """Return regressors that learn from a stream: scikit-learn's, and river's where it is installed."""
    found: dict[str, Any] = {
        "SGDRegressor": SGDRegressor(learning_rate="constant", eta0=0.02, random_state=seed),
        "MLPRegressor": MLPRegressor(hidden_layer_sizes=(64,), learning_rate_init=3e-3, random_state=seed),
    }
    try:
        from river import forest, linear_model, neighbors, optim, tree
    except ImportError:
        return found
    return found | {
        "river linear": River(linear_model.LinearRegression(optimizer=optim.Adam(0.02))),
        "river Hoeffding adaptive tree": River(tree.HoeffdingAdaptiveTreeRegressor(seed=seed)),
        "river adaptive random forest": River(forest.ARFRegressor(seed=seed)),
        "river kNN": River(neighbors.KNNRegressor(n_neighbors=5)),
    }


class River:
    """A river regressor under scikit-learn's names."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def partial_fit(self, X: np.ndarray, y: np.ndarray) -> "River":
        for row, goal in zip(X, y, strict=True):
            self.inner.learn_one(dict(enumerate(row.tolist())), float(goal))
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.array([self.inner.predict_one(dict(enumerate(row.tolist()))) for row in X])
