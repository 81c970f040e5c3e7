"""What skl2onnx lacks for a user's pipelines: LightGBM inside them, scalers as exact as scikit-learn's, fitted searches."""

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np


def register() -> None:
    """Make the converters known; again without harm."""
    _mend_attributes()
    _register_scalers()
    _register_lightgbm()


@contextlib.contextmanager
def convertible(estimator: Any) -> Generator[Any]:
    """The estimator as the converter takes it: of a search the best one, of a vote no layout of ``transform``."""
    while hasattr(estimator, "best_estimator_"):
        estimator = estimator.best_estimator_
    parts = {id(one): one for one in (estimator, *_parts(estimator)) if hasattr(one, "flatten_transform")}
    before = {key: one.flatten_transform for key, one in parts.items()}
    try:
        for one in parts.values():
            one.flatten_transform = False  # refused when true; it says how transform() answers, which nobody asks
        yield estimator
    finally:
        for key, one in parts.items():
            one.flatten_transform = before[key]


def last(estimator: Any) -> Any:
    """The step of a pipeline that predicts."""
    return last(estimator.steps[-1][1]) if hasattr(estimator, "steps") else estimator


def _parts(estimator: Any) -> Iterator[Any]:
    """Estimators inside, fitted or not."""
    yield from estimator.get_params(deep=True).values()
    if hasattr(estimator, "steps"):
        yield last(estimator)


def _mend_attributes() -> None:
    """skl2onnx 1.20 hands booleans and NumPy numbers to onnx 1.23's attributes, which refuse them."""
    import onnx.helper

    helper: Any = onnx.helper
    if getattr(helper.make_attribute, "mended_by_ctloop", False):
        return
    original = helper.make_attribute

    def plain(one: Any) -> Any:
        if isinstance(one, bool | np.bool_):
            return int(one)
        return one.item() if isinstance(one, np.generic) else one

    def make_attribute(key: str, value: Any, *args: Any, **named: Any) -> Any:
        return original(key, [plain(one) for one in value] if isinstance(value, list) else value, *args, **named)

    make_attribute.mended_by_ctloop = True  # pyright: ignore[reportFunctionMemberAccess]
    helper.make_attribute = make_attribute


def _register_scalers() -> None:
    """In float64 as scikit-learn computes: in float32 a whole number behind a scaler falls on the other side of a tree's
    threshold, and neighbours at one distance change places."""
    from skl2onnx import update_registered_converter
    from skl2onnx.shape_calculators.scaler import calculate_sklearn_scaler_output_shapes
    from sklearn.preprocessing import RobustScaler, StandardScaler

    for scaler in (StandardScaler, RobustScaler):
        name = f"Ctloop{scaler.__name__}"
        update_registered_converter(scaler, name, calculate_sklearn_scaler_output_shapes, _convert_scaler)


def _convert_scaler(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto
    from skl2onnx.operator_converters.common import concatenate_variables

    scaler = operator.raw_operator
    center = getattr(scaler, "mean_", None) if hasattr(scaler, "with_mean") else scaler.center_
    given = [one.full_name for one in operator.inputs]
    held = concatenate_variables(scope, operator.inputs, container) if len(given) > 1 else given[0]

    def step(kind: str, *inputs: str, **attributes: Any) -> str:
        made = scope.get_unique_variable_name("scaled")
        container.add_node(kind, list(inputs), made, name=scope.get_unique_operator_name(kind), **attributes)
        return made

    def constant(values: Any, type: int = TensorProto.DOUBLE) -> str:
        name = scope.get_unique_variable_name("scale")
        container.add_initializer(name, type, list(np.shape(values)), np.ravel(values).tolist())
        return name

    fitted = scaler.scale_ if center is None else center
    given_columns = operator.inputs[0].type.shape[-1] if len(given) == 1 else None
    if fitted is not None and given_columns not in (None, len(fitted)):
        name = type(scaler).__name__
        raise ValueError(
            f"{name} was fitted on {len(fitted)} columns, the steps before it give {given_columns} in ONNX"
        )
    at_center = None
    if center is not None and getattr(scaler, "with_mean", True):
        nearest = np.asarray(center, np.float32)  # what an imputer in front puts there: it is 0 once scaled
        at_center = step("Equal", held, constant(nearest, TensorProto.FLOAT))
        held = step("Sub", step("Cast", held, to=TensorProto.DOUBLE), constant(center))
    else:
        held = step("Cast", held, to=TensorProto.DOUBLE)
    if scaler.scale_ is not None:
        held = step("Div", held, constant(scaler.scale_))
    held = step("Cast", held, to=TensorProto.FLOAT)
    if at_center is not None:
        held = step("Where", at_center, constant([0.0], TensorProto.FLOAT), held)
    container.add_node(
        "Identity", [held], operator.outputs[0].full_name, name=scope.get_unique_operator_name("Identity")
    )


def _register_lightgbm() -> None:
    """LightGBM's converters inside scikit-learn pipelines, where LightGBM is installed."""
    try:
        from lightgbm import LGBMClassifier, LGBMRegressor
    except ImportError:
        return
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    classifier_options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    update_registered_converter(
        LGBMClassifier, "LightGbmLGBMClassifier", calculate_linear_classifier_output_shapes, convert_lightgbm,
        options=classifier_options,
    )  # fmt: skip
    update_registered_converter(
        LGBMRegressor, "LightGbmLGBMRegressor", calculate_linear_regressor_output_shapes, convert_lightgbm
    )
