"""What a replay found: quality and fits side by side, every decision with its why, a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ctloop.events.values import EvaluatedNode, GateResult, Measured, Verdict
from ctloop.policy.conditions import render
from ctloop.policy.losses import SKILL


@dataclass(frozen=True)
class ReplayDecision:
    """What the policy concluded at one tick."""

    data_time: datetime
    version: int
    """The champion that was judged; 0: there was none."""
    labels: int
    acts: bool
    trigger: str | None
    reason: str
    tree: EvaluatedNode


@dataclass(frozen=True)
class Fit:
    """One run of the policy and what the gates said."""

    version: int
    data_time: datetime
    trigger: str
    reason: str
    rows: int
    seconds: float
    verdict: Verdict
    gates: tuple[GateResult, ...]
    metrics: tuple[Measured, ...]
    """Of the candidate on the gate rows."""

    @property
    def refusal(self) -> str:
        """The gates that refused it, in words; empty when it passed."""
        return "; ".join(f"{one.name} ({one.note})" if one.note else one.name for one in self.gates if not one.passed)


@dataclass(frozen=True)
class Track:
    """One way of retraining over the whole table."""

    name: str
    fits: int
    fit_seconds: float
    metrics: tuple[Measured, ...]
    """Over all rows that were predicted before their label was known."""
    windows: tuple[tuple[datetime, Mapping[str, float]], ...]
    """The same by window of data time, by its end."""

    def value(self, name: str) -> float | None:
        """A metric over all rows."""
        return next((one.value for one in self.metrics if one.name == name), None)


@dataclass(frozen=True)
class ReplayResult:
    """The whole policy over one table."""

    model: str
    metric: str
    rows: int
    dropped: int
    """Rows that break a rule of the record class; services put them in quarantine."""
    step: timedelta
    tracks: tuple[Track, ...]
    decisions: tuple[ReplayDecision, ...]
    fits: tuple[Fit, ...]

    def track(self, name: str) -> Track:
        """A track by name: never, weekly (or every ...), ctloop."""
        return next(one for one in self.tracks if one.name == name)

    def lines(self) -> list[str]:
        """The table and the acted decisions, for people."""
        names = [one.name for one in self.tracks[0].metrics if one.name != SKILL]
        head = f"{'':<18}" + "".join(f"{one.name:>16}" for one in self.tracks)
        body = [f"{name:<18}" + "".join(f"{_number(one.value(name)):>16}" for one in self.tracks) for name in names]
        fits = f"{'fits':<18}" + "".join(f"{one.fits:>16}" for one in self.tracks)
        return [head, *body, fits, "", *(line for fit in self.fits for line in _fit_lines(fit))]

    def why(self, decision: ReplayDecision) -> list[str]:
        """The sentence and the condition's tree with each node's value."""
        return [f"{decision.data_time:%Y-%m-%d %H:%M}  {decision.reason}", *render(decision.tree, 1)]

    def to_json(self) -> dict[str, Any]:
        """Everything but the trees' texts twice; for --json."""
        return {
            "model": self.model, "metric": self.metric, "rows": self.rows, "dropped": self.dropped,
            "step_seconds": self.step.total_seconds(),
            "tracks": [
                {"name": one.name, "fits": one.fits, "fit_seconds": round(one.fit_seconds, 3),
                 "metrics": {metric.name: metric.value for metric in one.metrics}}
                for one in self.tracks
            ],
            "decisions": [
                {"data_time": one.data_time.isoformat(), "version": one.version, "labels": one.labels, "acts": one.acts,
                 "trigger": one.trigger, "reason": one.reason, "tree": one.tree.model_dump(mode="json")}
                for one in self.decisions
            ],
            "fits": [
                {"version": one.version, "data_time": one.data_time.isoformat(), "trigger": one.trigger,
                 "verdict": one.verdict.value, "rows": one.rows, "refusal": one.refusal,
                 "metrics": {metric.name: metric.value for metric in one.metrics}}
                for one in self.fits
            ],
        }  # fmt: skip

    def picture(self, path: Path) -> None:
        """A PNG: the metric by window for each track, with the runs of the policy."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, drawn = pyplot.subplots(figsize=(10, 4), layout="constrained")
        axes: Any = drawn  # its stubs know no dates
        for track, style in zip(self.tracks, ("--", ":", "-"), strict=False):
            points = [(end, values[self.metric]) for end, values in track.windows if self.metric in values]
            axes.plot([end for end, _ in points], [value for _, value in points], style, label=_legend(track))
        for fit in self.fits:
            passed = fit.verdict is Verdict.PASSED
            axes.axvline(fit.data_time, color="tab:green" if passed else "tab:red", linewidth=0.8, alpha=0.6)
        axes.set_ylabel(f"{self.metric} by window")
        axes.set_title(f"{self.model}: green lines are promoted runs, red ones refused")
        axes.legend()
        figure.autofmt_xdate()
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def _legend(track: Track) -> str:
    return f"{track.name} ({track.fits} fit{'s' if track.fits != 1 else ''})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _fit_lines(fit: Fit) -> list[str]:
    shown = ", ".join(f"{one.name} {one.value:.3g}" for one in fit.metrics if one.name != SKILL)
    verdict = "promoted" if fit.verdict is Verdict.PASSED else f"REFUSED: {fit.refusal}"
    return [
        f"{fit.data_time:%Y-%m-%d %H:%M}  {fit.trigger}: {fit.reason}",
        f"{'':18}run {fit.version} on {fit.rows:,} rows: {shown}; {verdict}",
    ]
