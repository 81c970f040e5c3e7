"""``ctloop replay`` of the flights: never retrained, weekly and ctloop over 327,000 rows, as a whole process."""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import write_result

ROOT = Path(__file__).resolve().parents[1]


def measure() -> Path:
    """One run: it takes a minute and more."""
    flights = ROOT / "examples" / "flights"
    with tempfile.TemporaryDirectory(prefix="ctloop-bench-") as folder:
        table = Path(folder) / "flights.parquet"
        subprocess.run([sys.executable, str(flights / "data.py"), str(table)], check=True, capture_output=True)
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "ctloop.cli.main", "replay", str(flights / "flights.py"), str(table)],
            check=True,
            capture_output=True,
            text=True,
        )
        seconds = time.monotonic() - began
    rows = [
        re.split(r"\s{2,}", line.strip())
        for line in done.stdout.splitlines()
        if line.startswith(("log_loss", "auc", "fits"))
    ]
    return write_result("replay", {"goals": {"seconds": 90}, "seconds": seconds, "table": rows})


if __name__ == "__main__":
    print(measure())
