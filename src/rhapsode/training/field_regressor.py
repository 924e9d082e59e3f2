"""A field of local-linear units as scikit-learn estimators: fit, partial_fit, predict, score."""

import inspect
import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from rhapsode.config import build_config
from rhapsode.errors import UserError
from rhapsode.nn.field.config import FieldConfig, RelocationConfig
from rhapsode.training.field_fit import FitPlan
from rhapsode.training.field_model import FieldModel, ModelPlan, summary, without_search

_AUTO_GATES = ("slab", "ball", "product")
# temperatures to try: a sharp blend of near planes is no smooth function of the input, and fitted noise when tried.
_AUTO_SHARINGS = {"slab": [1.0], "ball": [0.1, 0.4, 1.0], "product": [0.1, 0.4, 1.0]}
# memories of about 10,000, 1,000, 100 and 30 samples.
_AUTO_FORGETTING = (0.9999, 0.999, 0.99, 0.97)
# samples for each unit, and the most units, where the number is left to the data.
_SAMPLES_PER_UNIT, _MAX_UNITS = 8, 32
_KINDS: dict[type, str] = {Real: "a finite number", Integral: "a whole number", bool: "True or False"}
# what a setting is, the rule for it, and whether a value keeps to it.
_RULES: dict[str, tuple[type, str, Callable[[Any], bool]]] = {
    "learning_rate": (Real, "be positive", lambda value: value > 0),
    "max_epochs": (Integral, "be at least 0", lambda value: value >= 0),
    "solve_every": (Integral, "be at least 0", lambda value: value >= 0),
    "batch_size": (Integral, "be at least 1", lambda value: value >= 1),
    "weight_decay": (Real, "be at least 0", lambda value: value >= 0),
    "validation": (Real, "lie between 0 and 1", lambda value: 0 < value < 1),
    "patience": (Integral, "be at least 1", lambda value: value >= 1),
    "online_rate": (Real, "lie in [0, 1]", lambda value: 0 <= value <= 1),
    "replay": (Integral, "be at least 0", lambda value: value >= 0),
    "warmup": (Integral, "be at least 1", lambda value: value >= 1),
    "linear": (bool, "", lambda value: True),
    "relocate": (bool, "", lambda value: True),
}


def _is_a(kind: type, value: Any) -> bool:
    if kind is bool or isinstance(value, (bool, np.bool_)):
        return kind is bool and isinstance(value, (bool, np.bool_))
    return isinstance(value, kind) and math.isfinite(value)  # type: ignore[arg-type]


class _FieldEstimator(BaseEstimator):  # type: ignore[misc]
    """The parts that regression and classification share; scikit-learn's conventions hold."""

    def __init__(
        self,
        num_units: int | Literal["auto"] = "auto",
        num_active: int | Literal["auto"] = "auto",
        *,
        gate: str = "slab",
        blend: str = "softmax",
        interpolation: str = "hermite",
        init: str = "kmeans",
        rank: int | None = 64,
        sharing: float | Literal["auto"] = "auto",
        linear: bool = True,
        learning_rate: float = 0.01,
        max_epochs: int = 40,
        solve_every: int = 5,
        batch_size: int = 64,
        weight_decay: float = 0.0,
        validation: float = 0.15,
        patience: int = 12,
        relocate: bool = False,
        online_rate: float = 0.4,
        forgetting: float | Literal["auto"] = "auto",
        replay: int = 0,
        warmup: int = 200,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.num_units = num_units
        self.num_active = num_active
        self.gate = gate
        self.blend = blend
        self.interpolation = interpolation
        self.init = init
        self.rank = rank
        self.sharing = sharing
        self.linear = linear
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.solve_every = solve_every
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.validation = validation
        self.patience = patience
        self.relocate = relocate
        self.online_rate = online_rate
        self.forgetting = forgetting
        self.replay = replay
        self.warmup = warmup
        self.random_state = random_state

    def _plan(self, samples: int) -> ModelPlan:
        """Check the settings and choose what is left to the data."""
        self._check()
        units = self.num_units
        if units == "auto":
            units = max(1, min(_MAX_UNITS, samples // _SAMPLES_PER_UNIT))
            if self.num_active != "auto":
                units = max(units, self.num_active)
        active = min(units, _MAX_UNITS) if self.num_active == "auto" else self.num_active
        gates = _AUTO_GATES if self.gate == "auto" else (self.gate,)
        configs = [
            build_config(
                FieldConfig,
                {
                    "num_units": units,
                    "num_active": active,
                    "gate": gate,
                    "sharing": sharing,
                    "blend": self.blend,
                    "interpolation": self.interpolation,
                    "init": self.init,
                    "rank": self.rank,
                },
                "field",
            )
            for gate in gates
            for sharing in (_AUTO_SHARINGS.get(gate, [1.0]) if self.sharing == "auto" else [self.sharing])
        ]
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        fit = FitPlan(
            learning_rate=self.learning_rate,
            max_epochs=self.max_epochs,
            solve_every=self.solve_every,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            validation=self.validation,
            patience=self.patience,
            relocation=RelocationConfig() if self.relocate else None,
            seed=seed,
        )
        forgetting = _AUTO_FORGETTING if self.forgetting == "auto" else (float(self.forgetting),)
        return ModelPlan(tuple(configs), fit, self.linear, self.online_rate, forgetting, self.replay)

    def _check(self) -> None:
        defaults = inspect.signature(type(self)).parameters
        for name, (kind, rule, fine) in _RULES.items():
            value = getattr(self, name)
            rule = rule if _is_a(kind, value) else f"be {_KINDS[kind]}"
            if not _is_a(kind, value) or not fine(value):
                raise UserError(f"{name} must {rule}; got {value!r}. The default is {defaults[name].default}.")
        for name in ("num_units", "num_active"):
            value = getattr(self, name)
            if value != "auto" and not _is_a(Real, value):
                raise UserError(f"{name} must be 'auto' or a whole number; got {value!r}. The default is auto.")
        value = self.forgetting
        if value != "auto" and not (_is_a(Real, value) and 0 < value <= 1):
            raise UserError(f"forgetting must be 'auto' or lie in (0, 1]; got {value!r}. The default is auto.")

    def _fit_arrays(self, x: Float[np.ndarray, "S D"], y: Float[np.ndarray, "S V"]) -> None:
        self.model_ = FieldModel(_tensor(x), _tensor(y), self._plan(len(x)))
        self._warm: tuple[np.ndarray, np.ndarray] | None = None
        self.n_iter_ = max(1, len(self.model_.report.history) - 1)

    def _start_stream(self, x: Float[np.ndarray, "S D"], y: Float[np.ndarray, "S V"]) -> None:
        self._warm = (x[:0], y[:0])
        self._fitted_at = 0
        self._go_on(x, y)

    def _go_on(self, x: Float[np.ndarray, "S D"], y: Float[np.ndarray, "S V"]) -> None:
        if self._warm is None:
            self.model_.update(_tensor(x), _tensor(y))
            return
        # until `warmup` samples are there, they are kept, and the model is made anew whenever they have doubled.
        xs, ys = (np.concatenate(pair) for pair in zip(self._warm, (x, y), strict=True))
        self._warm = (xs, ys)
        full = len(xs) >= self.warmup
        if full or len(xs) >= 2 * self._fitted_at:
            plan = self._plan(len(xs))
            self.model_ = FieldModel(_tensor(xs), _tensor(ys), plan if full else without_search(plan))
            self._fitted_at = len(xs)
            self.n_iter_ = max(1, len(self.model_.report.history) - 1)
        else:
            self.model_.update(_tensor(x), _tensor(y))
        if full:
            self._warm = None

    def _outputs(self, X: Any) -> Float[np.ndarray, "S V"]:
        check_is_fitted(self, "model_")
        x = validate_data(self, X, reset=False, dtype=np.float64)
        return np.asarray(self.model_(_tensor(x)).numpy())

    def fit_summary(self) -> dict[str, Any]:
        """Return which gate was chosen, the errors it was chosen by, and the units' statistics."""
        check_is_fitted(self, "model_")
        return summary(self.model_)


class FieldRegressor(MultiOutputMixin, RegressorMixin, _FieldEstimator):  # type: ignore[misc]
    """Regression by local-linear units on top of a ridge regression, in batches or from a stream.

    `fit` standardises inputs and targets, fits a ridge regression, and puts a field on what it leaves. Units are
    seeded by clusters, and controls solved in closed form at the temperature of least leave-one-out error. Adam moves
    planes, centres and bands, the controls being solved for anew on the way, and what it finds is kept only where a
    held-out part says so. `partial_fit` scores first and learns after; a stream's first `warmup` samples are kept and
    fitted anew as they double.

    Args:
        num_units: units; by default one for eight samples, at most 32.
        num_active: units that answer for an input; by default all, up to 32.
        gate: slab, ball, product, or auto, the one that is best held out after ten epochs, at three times the cost.
        sharing: share of the active units that have weight at the start; by default 1 for slabs, and for the others
            0.1, 0.4 or 1 by leave-one-out error.
        solve_every: epochs between two solutions for the controls; 0 leaves them to Adam.
        linear: put a ridge regression under the field.
        validation: share of the samples held out to choose the epoch.
        relocate: move idle units to where the loss is high, while fitting and on a stream.
        online_rate: share of an error that one later sample mends.
        forgetting: weight of a sample in the ridge regression after one more of a stream; by default several are tried
            side by side, and those that said lately what came are trusted.
        replay: samples of a stream that are kept and learnt from again.
        random_state: seed of everything drawn.

    Attributes:
        model_: the fitted parts; `n_features_in_` and `n_iter_` as usual.

    >>> import numpy as np
    >>> X = np.linspace(-3, 3, 200)[:, None]
    >>> FieldRegressor(random_state=0).fit(X, np.sin(X[:, 0])).score(X, np.sin(X[:, 0])) > 0.99
    True
    """

    def fit(self, X: Any, y: Any) -> "FieldRegressor":
        """Fit to X (S, D) and y (S,) or (S, V).

        Raises:
            ValueError: if they hold NaN or infinities, or do not fit together; UserError for a setting out of range.
        """
        x, targets = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        self._fit_arrays(x, self._columns(targets))
        return self

    def partial_fit(self, X: Any, y: Any) -> "FieldRegressor":
        """Learn from more samples; the first call starts a stream.

        Raises:
            ValueError: as `fit` does; UserError if y has another number of columns than before.
        """
        first = not hasattr(self, "model_")
        x, targets = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, reset=first)
        columns = self._columns(targets)
        if not first and columns.shape[1] != (known := self.model_.num_targets):
            raise UserError(f"y must have {known} columns, as it had; got {columns.shape[1]}. Use fit to begin anew.")
        (self._start_stream if first else self._go_on)(x, columns)
        return self

    def predict(self, X: Any) -> Float[np.ndarray, "..."]:
        """Return predictions, of the shape that y had."""
        values = self._outputs(X)
        return values[:, 0] if self._flat else values

    def _columns(self, y: np.ndarray) -> np.ndarray:
        self._flat = y.ndim == 1
        return np.asarray(y.reshape(len(y), -1), dtype=np.float64)


class FieldClassifier(ClassifierMixin, _FieldEstimator):  # type: ignore[misc]
    """Classification by the same model, fitted to one-hot classes by squared error (Rifkin & Klautau 2004).

    Probabilities are its outputs, cut to [0, 1] and normalised.
    """

    def fit(self, X: Any, y: Any) -> "FieldClassifier":
        """Fit to X (S, D) and classes y (S,). Raises ValueError as the regressor does, and for a single class."""
        x, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_ = self._two_or_more("y", labels)
        self._fit_arrays(x, self._one_hot(labels))
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> "FieldClassifier":
        """Learn from more samples; the first call must name all `classes` that may come."""
        first = not hasattr(self, "model_")
        x, labels = validate_data(self, X, y, dtype=np.float64, reset=first)
        check_classification_targets(labels)
        if first:
            if classes is None:
                raise UserError("classes must be given at the first call of partial_fit; got none. Name all there are.")
            self.classes_ = self._two_or_more("classes", classes)
        (self._start_stream if first else self._go_on)(x, self._one_hot(labels))
        return self

    def decision_function(self, X: Any) -> Float[np.ndarray, "..."]:
        """Return the outputs, one a class; for two classes the second less the first."""
        values = self._outputs(X)
        return values[:, 1] - values[:, 0] if values.shape[1] == 2 else values

    def predict_proba(self, X: Any) -> Float[np.ndarray, "S V"]:
        """Return probabilities (S, V) in the order of `classes_`."""
        values = self._outputs(X)
        cut = values.clip(0, 1) + 1e-9 * (1 + np.tanh(values))
        return np.asarray(cut / cut.sum(1, keepdims=True))

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of the largest output."""
        values = self._outputs(X)
        return np.asarray(self.classes_[values.argmax(1)])

    @staticmethod
    def _two_or_more(name: str, labels: Any) -> np.ndarray:
        found = np.unique(labels)
        if len(found) < 2:
            raise UserError(f"{name} must hold at least two classes; got {len(found)} class. Add another.")
        return found

    def _one_hot(self, labels: np.ndarray) -> np.ndarray:
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise UserError(f"y must hold classes named before; got {unknown[0]}. Name all at the start.")
        return np.asarray(labels[:, None] == self.classes_, dtype=np.float64)


def _tensor(values: np.ndarray) -> Tensor:
    # a copy: memory that cannot be written makes torch warn.
    return torch.tensor(np.ascontiguousarray(values), dtype=torch.float64)
