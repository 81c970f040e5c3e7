"""Export: a zoo of estimators gives the same answers as ONNX, missing values and unknown words included."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import RandomizedSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

import ctloop as ct
from ctloop import columns, onnx_rows
from ctloop.events.manifest import RecordSpec
from ctloop.onnx_export import check_estimator, export, golden
from ctloop.problems import Problem


class Visit(ct.Record, id="visit", time="at"):
    visit: str
    at: datetime
    town: str | None
    size: Literal["s", "m", "l"] | None
    age: float | None
    rooms: int
    paid: bool | None
    hour: int = ct.derive("hour(at)")
    per_room: float = ct.derive("age / rooms")
    back: bool = ct.label()


class Choice(ct.Record, id="visit", time="at"):
    visit: str
    at: datetime
    town: str | None
    size: Literal["s", "m", "l"] | None
    age: float | None
    rooms: int
    paid: bool | None
    hour: int = ct.derive("hour(at)")
    per_room: float = ct.derive("age / rooms")
    kind: str = ct.label()


class Amount(ct.Record, id="visit", time="at"):
    visit: str
    at: datetime
    town: str | None
    size: Literal["s", "m", "l"] | None
    age: float | None
    rooms: int
    paid: bool | None
    hour: int = ct.derive("hour(at)")
    per_room: float = ct.derive("age / rooms")
    spent: float = ct.label()


class Plain(ct.Record, id="visit", time="at"):
    visit: str
    at: datetime
    age: float | None
    rooms: int
    hour: int = ct.derive("hour(at)")
    back: bool = ct.label()


class Level(ct.Record, id="visit"):
    visit: str
    size: Literal["s", "m", "l"] | None
    age: float | None
    back: bool = ct.label()


class PlainAmount(ct.Record, id="visit", time="at"):
    visit: str
    at: datetime
    age: float | None
    rooms: int
    hour: int = ct.derive("hour(at)")
    spent: float = ct.label()


def rows(n: int = 1200, seed: int = 3, towns: int = 12) -> pa.Table:
    """Visits with missing values in every column that may be missing, and every label there is."""
    random = np.random.default_rng(seed)
    age, rooms = random.normal(40, 15, n), random.integers(1, 9, n)
    town = random.integers(0, towns, n)
    drive = (age > 45).astype(int) + (rooms > 4) + (town % 3 == 0)
    start = datetime(2024, 2, 27, tzinfo=UTC)

    def holed(values: Any, share: float = 0.1) -> Any:
        return pa.array(values.tolist(), mask=random.random(n) < share)

    return pa.table(
        {
            "visit": [f"v{one}" for one in range(n)],
            "at": pa.array([start + timedelta(minutes=37 * one) for one in range(n)], columns.TIME),
            "town": holed(np.array([f"town {one}" for one in town], object)),
            "size": holed(np.array(["s", "m", "l"], object)[random.integers(0, 3, n)]),
            "age": holed(age),
            "rooms": rooms,
            "paid": holed(random.random(n) < 0.5),
            "back": (drive + random.normal(0, 0.5, n)) > 1.5,
            "kind": np.array(["never", "once", "often", "twice"], object)[np.clip(drive, 0, 3)].tolist(),
            "spent": 1000.0 * drive + age * 3 + random.normal(0, 5, n),
        }
    )


def encoded(last: Any, *, scale: bool = False, ordinal: bool = False) -> Any:
    """Words encoded, numbers imputed (and scaled), then the estimator."""
    words = (
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        if ordinal
        else OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    )
    numbers = make_pipeline(SimpleImputer(), StandardScaler()) if scale else "passthrough"
    left = ["age", "rooms", "paid", "hour", "per_room"]
    return make_pipeline(make_column_transformer((words, ["town", "size"]), (numbers, left)), last)


CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "one-hot, hist gradient boosting": lambda: encoded(HistGradientBoostingClassifier(max_iter=40)),
    "ordinal, hist gradient boosting": lambda: encoded(HistGradientBoostingClassifier(max_iter=40), ordinal=True),
    "logistic regression": lambda: encoded(LogisticRegression(max_iter=300), scale=True),
    "random forest": lambda: encoded(RandomForestClassifier(n_estimators=20, max_depth=6, random_state=0), scale=True),
    "extra trees": lambda: encoded(ExtraTreesClassifier(n_estimators=20, max_depth=6, random_state=0), scale=True),
    "gradient boosting": lambda: encoded(GradientBoostingClassifier(n_estimators=20), scale=True),
    "perceptron": lambda: encoded(MLPClassifier((8,), max_iter=60, random_state=0), scale=True),
    "lightgbm": lambda: encoded(LGBMClassifier(n_estimators=30, verbose=-1)),
    "vote": lambda: encoded(
        VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft"), scale=True
    ),
    "random search": lambda: RandomizedSearchCV(
        encoded(LogisticRegression(max_iter=300), scale=True), {"logisticregression__C": [0.1, 1.0]}, n_iter=2, cv=2
    ),
}
REGRESSORS: dict[str, Callable[[], Any]] = {
    "hist gradient boosting": lambda: encoded(HistGradientBoostingRegressor(max_iter=40)),
    "linear": lambda: encoded(LinearRegression(), scale=True),
    "ridge": lambda: encoded(Ridge(), scale=True),
    "random forest": lambda: encoded(RandomForestRegressor(n_estimators=20, max_depth=6, random_state=0), scale=True),
    "gradient boosting": lambda: encoded(GradientBoostingRegressor(n_estimators=20), scale=True),
    "lightgbm": lambda: encoded(LGBMRegressor(n_estimators=30, verbose=-1)),
    "scaled, hist gradient boosting": lambda: encoded(HistGradientBoostingRegressor(max_iter=40), scale=True),
}


def fitted(estimator: Any, spec: RecordSpec, table: pa.Table) -> tuple[Any, tuple[str, ...]]:
    """The estimator fitted as training does it."""
    known = columns.classes(table, spec)
    return estimator.fit(columns.to_frame(table, spec), columns.target(table, spec, known)), known


@pytest.mark.parametrize("record", [Visit, Choice], ids=["two classes", "four classes"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_answers_the_same(name: str, record: type[ct.Record]) -> None:
    """Probabilities agree within 1e-5 on rows it was not fitted on, with words it has never seen."""
    model, known = fitted(CLASSIFIERS[name](), record.spec, rows())
    made = export(model, record.spec, rows(800, seed=9, towns=15), known)
    assert made.parity.rows == 800
    assert made.parity.largest_difference < 1e-5
    assert made.parity.flipped == 0


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_regressor_answers_the_same(name: str) -> None:
    """Values agree within 1e-4 of their size: float32 sums of many trees."""
    model, known = fitted(REGRESSORS[name](), Amount.spec, rows())
    made = export(model, Amount.spec, rows(800, seed=9, towns=15), known)
    assert made.parity.largest_difference < 1e-4
    assert made.parity.flipped == 0


@pytest.mark.parametrize("estimator", [HistGradientBoostingClassifier(max_iter=20), LGBMClassifier(verbose=-1)])
def test_an_estimator_without_a_pipeline(estimator: Any) -> None:
    """A bare estimator over numbers takes one input per column all the same."""
    model, known = fitted(estimator, Plain.spec, rows())
    made = export(model, Plain.spec, rows(300, seed=5), known)
    assert [one.name for one in made.signature.inputs] == ["age", "rooms", "at"]
    assert made.parity.largest_difference < 1e-5


BARE_REGRESSORS = (
    HistGradientBoostingRegressor(max_iter=20),
    LGBMRegressor(verbose=-1),
    make_pipeline(SimpleImputer(), StandardScaler(), Ridge()),
)


@pytest.mark.parametrize("estimator", BARE_REGRESSORS)
def test_a_regressor_without_a_pipeline(estimator: Any) -> None:
    """The same for values."""
    model, known = fitted(estimator, PlainAmount.spec, rows())
    assert export(model, PlainAmount.spec, rows(300, seed=5), known).parity.largest_difference < 1e-4


def test_lightgbms_own_categories() -> None:
    """LightGBM straight on X: a Literal is a category by its level, a missing one too."""
    model, known = fitted(LGBMClassifier(n_estimators=30, verbose=-1, min_data_per_group=5), Level.spec, rows())
    made = export(model, Level.spec, rows(500, seed=5), known)
    assert (made.signature.inputs[0].name, made.signature.inputs[0].kind) == ("size", "text")
    assert made.parity.largest_difference < 1e-5


def test_categories_inside_hist_gradient_boosting_are_caught() -> None:
    """The converter is silently wrong about categorical_features=: parity says so."""
    trees = HistGradientBoostingClassifier(categorical_features=[0, 1], max_iter=40)
    model, known = fitted(encoded(trees, ordinal=True), Visit.spec, rows())
    try:
        made = export(model, Visit.spec, rows(800, seed=9), known)
    except Problem as problem:
        assert problem.code == "CT3102"
    else:
        assert made.parity.largest_difference > 1e-2
        assert made.parity.flipped > 0


@pytest.mark.parametrize("record", [Visit, Amount])
def test_a_forest_over_missing_values_is_caught(record: type[ct.Record]) -> None:
    """The converter forgets where a forest sends missing values: an imputer in front is right, without it parity says so."""
    forest = RandomForestClassifier if record is Visit else RandomForestRegressor
    model, known = fitted(encoded(forest(n_estimators=20, max_depth=6, random_state=0)), record.spec, rows())
    made = export(model, record.spec, rows(800, seed=9), known)
    assert made.parity.largest_difference > 1e-2
    assert made.parity.flipped > 0.001 * made.parity.rows


def test_python_inside_a_pipeline_is_refused() -> None:
    """A function of the user's own has no ONNX form, and the problem names the estimator."""
    model, known = fitted(
        make_pipeline(FunctionTransformer(lambda X: X), LGBMClassifier(verbose=-1)), Plain.spec, rows()
    )
    with pytest.raises(Problem, match="CT3102"):
        export(model, Plain.spec, rows(50), known)


@pytest.mark.parametrize("returned", [None, 1, "model", LinearRegression(), HistGradientBoostingClassifier()])
def test_what_is_no_fitted_classifier_is_refused(returned: Any) -> None:
    """A fit function that returns something else, or an estimator that was not fitted, is CT3101."""
    with pytest.raises(Problem, match="CT3101"):
        check_estimator(returned, Visit.spec)


def test_a_class_that_was_not_in_the_fit_has_probability_zero() -> None:
    """Probabilities have a column per class of the dataset, whatever the estimator saw."""
    table = rows()
    known = columns.classes(table, Choice.spec)
    seen = table.filter(pa.compute.not_equal(table.column("kind"), known[1]))
    y = columns.target(seen, Choice.spec, known)
    model = encoded(HistGradientBoostingClassifier(max_iter=20)).fit(columns.to_frame(seen, Choice.spec), y)
    made = export(model, Choice.spec, table, known)
    found = onnx_rows.run(onnx_rows.open_session(made.body), made.signature, table)
    assert found.probabilities is not None and found.label is not None
    assert found.probabilities.shape[1] == len(known) and not found.probabilities[:, 1].any()
    np.testing.assert_array_equal(found.label, found.probabilities.argmax(axis=1))
    assert made.parity.largest_difference < 1e-5


class Names(ct.Record, name="odd-names"):
    label: float
    probabilities: float
    value: float
    size: Literal["s", "m", "l"]
    output_label: bool = ct.label()


class NamesAmount(ct.Record, name="odd-amounts"):
    label: float
    probabilities: float
    value: float
    variable: float
    amount: float = ct.label()


def encoded_size(last: Any) -> Any:
    """One word encoded, the rest as it is."""
    words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return make_pipeline(make_column_transformer((words, ["size"]), remainder=StandardScaler()), last)


@pytest.mark.parametrize(
    ("record", "estimator"),
    [
        (Names, encoded_size(LogisticRegression())),
        (NamesAmount, make_pipeline(StandardScaler(), Ridge())),
        (NamesAmount, LGBMRegressor(verbose=-1)),
    ],
)
def test_columns_may_have_the_names_of_outputs(record: type[ct.Record], estimator: Any) -> None:
    """A column called value, label or probabilities is an input of that name; what the graph gives is called otherwise."""
    random = np.random.default_rng(1)
    numbers = {name: random.normal(size=200) for name in ("label", "probabilities", "value", "variable", "amount")}
    more = {"size": ["s", "m"] * 100, "output_label": numbers["label"] + numbers["value"] > 0}
    table = pa.table(numbers | more)
    model, known = fitted(estimator, record.spec, table)
    made = export(model, record.spec, table, known)
    session = onnx_rows.open_session(made.body)
    assert {one.name for one in session.get_inputs()} == {one.name for one in record.spec.inputs}
    assert made.parity.largest_difference < 1e-5
    _, expected = onnx_rows.read_golden(golden(made, table))
    assert len(expected.matrix) == 16


def test_what_has_no_conversion_is_named() -> None:
    """The estimator at fault by its name, without the converter's advice to its own developers."""
    model, known = fitted(
        make_pipeline(SimpleImputer(), Nystroem(n_components=5), LogisticRegression()), Plain.spec, rows()
    )
    with pytest.raises(Problem) as refused:
        export(model, Plain.spec, rows(50), known)
    assert refused.value.cause.endswith("Nystroem has no conversion to ONNX")


def test_golden_rows_are_answered_again() -> None:
    """Golden inputs give the golden outputs in another session; the same fit gives the same bytes."""
    model, known = fitted(CLASSIFIERS["one-hot, hist gradient boosting"](), Visit.spec, rows())
    made, again = (export(model, Visit.spec, rows(100, seed=4), known) for _ in range(2))
    assert made.body == again.body
    given, wanted = onnx_rows.read_golden(golden(made, rows(100, seed=4)))
    found = onnx_rows.run(onnx_rows.open_session(made.body), made.signature, given)
    assert given.num_rows == 16
    np.testing.assert_allclose(found.matrix, wanted.matrix, atol=1e-7)
