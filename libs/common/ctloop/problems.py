"""What a user is told when something is wrong: code, cause, hint, docs; and the catalogue of codes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum
from types import MappingProxyType
from typing import Any


class Exit(IntEnum):
    """Exit codes of the command."""

    OK = 0
    NO = 1
    """The domain says no: a gate failed, a check found something."""
    USAGE = 2
    NOT_FOUND = 3
    AUTH = 4
    CONFLICT = 5
    DEPENDENCY = 6
    TIMEOUT = 7
    INTERRUPTED = 130


@dataclass(frozen=True)
class Entry:
    """One kind of problem: what it is called and what helps, whatever the case at hand."""

    title: str
    help: str
    exit_code: Exit = Exit.NO


class Problem(Exception):
    """One problem, said in four parts.

    Args:
        code: a key of the catalogue.
        cause: what was found, with the name or value at fault.
        hint: what to do, a command or a line of code; empty: the catalogue's help.
        title: replaces the catalogue's title where the case is more telling.
    """

    def __init__(self, code: str, cause: str, hint: str = "", *, title: str = "") -> None:
        entry = CATALOGUE[code]
        self.code = code
        self.title = title or entry.title
        self.cause = cause
        self.hint = hint or entry.help
        self.exit_code = entry.exit_code
        super().__init__(self.text())

    def text(self) -> str:
        """The four parts, for people."""
        return (
            f"error[{self.code}]: {self.title}\n  cause: {self.cause}\n  hint:  {self.hint}\n"
            f"  docs:  ctloop docs {self.code}"
        )

    def to_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "code": self.code,
            "title": self.title,
            "cause": self.cause,
            "hint": self.hint,
            "docs": f"ctloop docs {self.code}",
            "exit_code": int(self.exit_code),
        }


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names, asked; empty when none is near.

    >>> did_you_mean("ucc", ["auc", "log_loss"]), did_you_mean("nps", ["auc"])
    ("Did you mean 'auc'?", '')
    """
    near = get_close_matches(name, sorted(known), 1, 0.6)
    return f"Did you mean {near[0]!r}?" if near else ""


_DECLARATION = {
    # CT10xx: the model file
    "CT1001": Entry("the model file cannot be read", "Give the path of one Python file.", Exit.NOT_FOUND),
    "CT1002": Entry("the model file is not valid Python", "python -m py_compile shows the same line."),
    "CT1003": Entry("the model file has the name of an installed module", "Rename the file, e.g. my_model.py."),
    "CT1004": Entry("the model file raised when it was imported", "Run it with python to see the whole traceback."),
    "CT1005": Entry(
        "the model file took too long to import",
        "Nothing should be loaded or trained at import: do the work inside the fit function.",
        Exit.TIMEOUT,
    ),
    "CT1006": Entry("the model file ended the process that imported it", "Remove exit() and the like from the file."),
    "CT1007": Entry("the model file declares no model", "Decorate a fit function with @ct.model(YourRecord)."),
    "CT1008": Entry(
        "an installed module hides one beside the model file", "Rename the module beside the file, then its imports."
    ),
    "CT1009": Entry("the bundle is not one of ours", "Apply the model file again; a bundle is made by ctloop apply."),
    # CT11xx: the record class
    "CT1101": Entry(
        "a column's type is not supported",
        "Use str, int, float, bool, datetime or Literal[...], with | None if missing.",
    ),
    "CT1102": Entry("the id column is not usable", 'class Flight(ct.Record, id="flight"): name a str or int column.'),
    "CT1103": Entry(
        "the time column is not usable", 'class Flight(ct.Record, time="departs"): name a datetime column.'
    ),
    "CT1104": Entry("a record class has one label", "Keep one ct.label(); the others are ordinary columns."),
    "CT1105": Entry("a rule does not fit its column", "gt, ge, lt, le are for numbers, max_length is for text."),
    "CT1106": Entry("a derived column cannot be computed", "See docs/howto/declare-a-model.md for the functions."),
    "CT1107": Entry("a name is not usable", "Use letters, digits and underscores, beginning with a letter."),
    "CT1108": Entry("the record class has no column to learn from", "Add at least one column besides id, time, label."),
    "CT1109": Entry("a column has a value that is no rule", "Use ct.field(...), ct.label() or ct.derive(...)."),
    # CT12xx: the fit function
    "CT1201": Entry("the fit function's arguments do not fit", "def model(X, y, *, depth: int = ct.integer(2, 8))"),
    "CT1202": Entry("a range is empty or of the wrong kind", "ct.integer(2, 8), ct.real(0, 1), ct.log(0.01, 1.0)."),
    "CT1203": Entry("the metric is not known for this task", "Classification: log_loss. Regression: rmse or mae."),
    "CT1204": Entry("the metric cannot decide", "Use a metric with a loss per row; others go into report=[...]."),
    "CT1205": Entry("an argument of @ct.model is not usable", "See docs/howto/declare-a-model.md."),
    "CT1206": Entry("a condition cannot be understood", 'Write it as Python: "auc >= champion.auc - 0.01".'),
    "CT1207": Entry("two models of the file have one name", "A model's name is its function's: rename one."),
    "CT1210": Entry("the model has no label: it is watched, never trained", "Add a ct.label() to train and judge it."),
    "CT1211": Entry(
        "this estimator option is converted to ONNX wrongly",
        "Encode categories with OneHotEncoder or OrdinalEncoder in front of it.",
    ),
    "CT1212": Entry("no time column: order of arrival is all there is", 'Name one: class R(ct.Record, time="at").'),
    "CT1213": Entry("a column has the name of the id, but is not it", 'class R(ct.Record, id="id")'),
    # init: 13xx
    "CT1301": Entry("the table cannot be read", "Give a CSV or Parquet file with a header.", Exit.USAGE),
    "CT1302": Entry("which column is the label?", "ctloop init --from FILE --label COLUMN", Exit.USAGE),
}

_DATA = {
    "CT2001": Entry("the data cannot be read", "Send Arrow or NDJSON with the record's columns.", Exit.USAGE),
    "CT2002": Entry("a column does not have the record's type", "Send it as the record class declares it."),
    "CT2003": Entry("a label is not one of the classes", "Look at the label's type in the record class."),
}

_MODELS = {
    "CT3101": Entry(
        "the fit function returned something else", "Return the fitted estimator: `return pipeline.fit(X, y)`."
    ),
    "CT3102": Entry("the estimator cannot become ONNX", "Use estimators skl2onnx knows, or LightGBM."),
}

_LOOPS = {
    "CT3001": Entry("nothing to learn from", "Send records with labels first: ctloop send.", Exit.CONFLICT),
    "CT3002": Entry("no such decision", "ctloop why MODEL --not shows the newest.", Exit.NOT_FOUND),
    "CT3003": Entry("it was acted on already", "ctloop loop ls", Exit.CONFLICT),
    "CT3004": Entry("no such run", "ctloop loop ls", Exit.NOT_FOUND),
    "CT3201": Entry("no such model, or no champion of it", "ctloop model ls", Exit.NOT_FOUND),
    "CT3202": Entry("no such version", "ctloop model show MODEL", Exit.NOT_FOUND),
    "CT3203": Entry(
        "a gate refused this version", "ctloop why MODEL@VERSION; --force with a --reason promotes it anyway."
    ),
    "CT3204": Entry("it is champion already", "ctloop model show MODEL", Exit.CONFLICT),
    "CT3205": Entry("nothing to go back to", "ctloop model show MODEL lists what was champion.", Exit.CONFLICT),
    "CT3206": Entry("somebody else was faster", "Look at the current state and try again.", Exit.CONFLICT),
    "CT3207": Entry(
        "the record class does not fit its dataset", "Give the dataset a new name: class R(ct.Record, name=...)"
    ),
    "CT3301": Entry("no such loop", "ctloop loop ls", Exit.NOT_FOUND),
    "CT3302": Entry("nothing was heard of it", "ctloop model show MODEL", Exit.NOT_FOUND),
}

_ANSWERS = {
    # CT4sss: an answer of the services over HTTP with status sss, told apart by the last digit
    "CT4000": Entry("the body is empty", "Send NDJSON (one object per line), an Arrow stream, or a reference.", Exit.USAGE),
    "CT4001": Entry("the body cannot be read", "Send what its content-type says.", Exit.USAGE),
    "CT4002": Entry("a value cannot be stored", "No NUL in a name; whole numbers within 64 bits.", Exit.USAGE),
    "CT4003": Entry("this is not HTTP", "Send a well-formed HTTP/1.1 request with an ASCII path.", Exit.USAGE),
    "CT4040": Entry("nothing answers under this path", "GET /openapi.json lists the paths.", Exit.NOT_FOUND),
    "CT4041": Entry("the dataset is not declared by any applied model file", "ctloop apply FILE", Exit.NOT_FOUND),
    "CT4042": Entry("no pipeline of this model is known here", "Apply its file: ctloop apply FILE", Exit.NOT_FOUND),
    "CT4043": Entry("no such dead letter", "ctloop dlq ls SERVICE", Exit.NOT_FOUND),
    "CT4050": Entry("the path takes another method", "GET /openapi.json lists the methods.", Exit.USAGE),
    "CT4080": Entry("the body did not come in", "Send it again in smaller parts.", Exit.TIMEOUT),
    "CT4090": Entry("a request with this Idempotency-Key is being carried out", "Wait a second, then send it again."),
    "CT4091": Entry("the dead letter was replayed before", "ctloop dlq ls SERVICE", Exit.CONFLICT),
    "CT4130": Entry("the body is too large", "Send less at once, or write an object and send its reference.", Exit.USAGE),
    "CT4150": Entry("this content type is not read", "NDJSON, an Arrow stream, or JSON of a reference.", Exit.USAGE),
    "CT4151": Entry("compressed bodies are not read", "Send it without Content-Encoding.", Exit.USAGE),
    "CT4220": Entry("the request does not fit the API", "GET /openapi.json says what it takes.", Exit.USAGE),
    "CT4221": Entry("the Idempotency-Key was used before with another body", "Use a new key for new data.", Exit.CONFLICT),
    "CT4290": Entry("too much is coming in at once", "Send it again after Retry-After.", Exit.DEPENDENCY),
    "CT4310": Entry("the request's head is too large", "Send a shorter path and fewer, shorter headers.", Exit.USAGE),
    "CT5030": Entry("a part of the stack does not answer now", "Try again; see ctloop status.", Exit.DEPENDENCY),
    "CT5031": Entry("ingestion is too far behind", "Send it again after Retry-After: nothing of it was taken.", Exit.DEPENDENCY),
}  # fmt: skip

_REQUESTS = {
    "CT5000": Entry("the body of a request cannot be read", "Send a row or a list of rows as JSON, or an OIP request."),
    "CT5001": Entry("a value does not fit the model's inputs", "GET /v2/models/MODEL says what it takes."),
    "CT5002": Entry("a request has a column the record class does not", "GET /v1/models/MODEL lists the columns."),
    "CT5003": Entry("a request asks for an output the model does not give", "label and probabilities, or value."),
    "CT5004": Entry("no champion of that name is served", "ctloop model ls", Exit.NOT_FOUND),
    "CT5005": Entry("that version does not answer", "Only the champion does: ctloop model show.", Exit.NOT_FOUND),
    "CT5006": Entry("nothing answers under this path", "See the README of serving.", Exit.NOT_FOUND),
    "CT5007": Entry("the path takes another method", "The answer names the ones it takes.", Exit.USAGE),
    "CT5008": Entry("the model cannot compute these rows", "The model refuses these values: look at its pipeline."),
    "CT5009": Entry("a champion is being loaded", "Try again in a second.", Exit.DEPENDENCY),
    "CT5010": Entry("binary tensors are not supported", "Send the tensors' data as JSON.", Exit.USAGE),
    "CT5011": Entry("serving cannot ask the registry", "ctloop status", Exit.DEPENDENCY),
    "CT5013": Entry("a request is too large", "Send fewer rows at a time."),
}

_USAGE = {
    "CT9001": Entry("a command was used wrongly", "ctloop --help", Exit.USAGE),
    "CT9002": Entry("nothing of that name", "ctloop model ls shows what there is.", Exit.NOT_FOUND),
    "CT9003": Entry("somebody else was faster", "Look at the current state and try again.", Exit.CONFLICT),
    "CT9004": Entry("a part of the stack does not answer", "ctloop status", Exit.DEPENDENCY),
    "CT9005": Entry("it took too long", "Try again with a longer --timeout.", Exit.TIMEOUT),
    "CT9006": Entry("not allowed", "Ask who runs this stack.", Exit.AUTH),
    "CT9007": Entry("the request was refused", "Look at the cause.", Exit.NO),
    "CT9009": Entry("something unexpected happened", "This is a bug of ctloop: please report it with the trace."),
}

_STACK = {
    "CT9101": Entry("a package of the stack cannot be fetched", "Check the network and run it again.", Exit.DEPENDENCY),
    "CT9102": Entry("a port is not free", "Choose other ports: CTLOOP_PORT_BASE=19000 ctloop up", Exit.CONFLICT),
    "CT9103": Entry("PostgreSQL cannot run as this user", "Run as an ordinary user.", Exit.DEPENDENCY),
    "CT9104": Entry("a part of the stack cannot be started", "ctloop logs NAME", Exit.DEPENDENCY),
    "CT9105": Entry("a server of your own does not answer", "Start it, or unset its setting.", Exit.DEPENDENCY),
    "CT9107": Entry(
        "the data was made by another version of ctloop",
        "Start on an empty directory: CTLOOP_DATA=DIR ctloop up. The old data stays for the version that made it.",
        Exit.CONFLICT,
    ),
    "CT9109": Entry(
        "the demo begins with an empty data directory", "CTLOOP_DATA=.ctloop-demo make demo", Exit.CONFLICT
    ),
    "CT9106": Entry("the stack runs already", "ctloop status, or ctloop down first.", Exit.CONFLICT),
    "CT9108": Entry("a setting cannot be used", "Unset it, or give it a value that fits.", Exit.USAGE),
}

CATALOGUE: Mapping[str, Entry] = MappingProxyType(
    {**_DECLARATION, **_DATA, **_MODELS, **_LOOPS, **_ANSWERS, **_REQUESTS, **_USAGE, **_STACK}
)
"""Every code there is. CT1 declaration, CT2 data, CT3 models and loops, CT4 answers of the services, CT5 predictions, CT9
the command (CT91 the embedded stack)."""
