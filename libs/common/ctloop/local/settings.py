"""What a user may set of the embedded stack: where it lives, its ports, and parts of their own."""

from pathlib import Path

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ctloop.problems import Problem


class Section(BaseModel):
    """A section of the settings."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class OwnKafka(Section):
    bootstrap: str | None = None
    prefix: str = ""


class OwnPostgres(Section):
    dsn: str | None = Field(default=None, description="Of a role that may create roles and databases; no password.")
    password_file: Path | None = None


class OwnS3(Section):
    endpoint: str | None = None
    keys_file: Path | None = None
    bucket: str = "ctloop"
    region: str = "us-east-1"


class OwnMlflow(Section):
    url: str | None = None


class OwnRay(Section):
    address: str | None = None
    token_file: Path | None = None


def local_settings() -> "LocalSettings":
    """The settings of the environment.

    Raises:
        Problem: CT9108, a variable has a value that cannot be.
    """
    try:
        return LocalSettings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "CTLOOP_" + "__".join(map(str, first["loc"])).upper()
        raise Problem("CT9108", f"{name}={first['input']!r}: {first['msg'].lower()}") from error


class LocalSettings(BaseSettings):
    """Read once, by ``up``; a part named here is not started, only probed."""

    model_config = SettingsConfigDict(env_prefix="CTLOOP_", env_nested_delimiter="__", frozen=True, extra="ignore")

    data: Path = Path(".ctloop")
    cache: Path = Field(default_factory=lambda: Path(platformdirs.user_cache_dir("ctloop")))
    port_base: int | None = Field(default=None, ge=1024, le=32000)
    kafka: OwnKafka = OwnKafka()
    postgres: OwnPostgres = OwnPostgres()
    s3: OwnS3 = OwnS3()
    mlflow: OwnMlflow = OwnMlflow()
    ray: OwnRay = OwnRay()
