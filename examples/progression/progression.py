"""How far will diabetes have progressed in a year? A regression over scikit-learn's 442 patients (Efron et al. 2004)."""

from datetime import datetime

from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ctloop as ct


class Visit(ct.Record, id="visit", time="at"):
    visit: str
    at: datetime
    age: float
    sex: float
    bmi: float
    bp: float
    s1: float | None
    s2: float | None
    s3: float | None
    s4: float | None
    s5: float | None
    s6: float | None
    progression: float = ct.label()  # measured a year later, under the same visit


@ct.model(Visit, metric="rmse", report=["mae", "r2"], trials=3)
def progression(X, y, *, alpha: float = ct.log(0.01, 100.0)):
    return make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(X, y)
