"""Where things run: one set of settings for all services, from ``CTLOOP_<SECTION>__<KEY>``."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Section(BaseModel):
    """A section of the settings."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class KafkaSettings(Section):
    bootstrap: str = "127.0.0.1:9092"
    prefix: str = Field(default="", description="Put before every topic's name.")
    replication: int = Field(default=1, description="Of topics that migrate creates.", ge=1)


class S3Keys(Section):
    access_key: str
    secret_key: SecretStr


class PostgresSettings(Section):
    dsn: str = Field(default="postgresql://127.0.0.1:5432/ctloop", description="Without password.")
    password_file: Path | None = None
    roles_file: Path | None = Field(default=None, description="migrate only: JSON of role to password.")

    def password(self) -> str | None:
        """The password, read when a pool is opened."""
        return self.password_file.read_text().strip() if self.password_file else None

    def roles(self) -> dict[str, str]:
        """Role to password, for migrate."""
        return json.loads(self.roles_file.read_text()) if self.roles_file else {}


class S3Settings(Section):
    endpoint: str = Field(default="http://127.0.0.1:9000", description="http(s)://host:port")
    keys_file: Path | None = Field(default=None, description="JSON with access_key and secret_key.")
    bucket: str = "ctloop"
    region: str = "us-east-1"

    def keys(self) -> S3Keys:
        """Access and secret key.

        Raises:
            ValueError: no CTLOOP_S3__KEYS_FILE is set.
        """
        if self.keys_file is None:
            raise ValueError("CTLOOP_S3__KEYS_FILE is not set: a JSON file with access_key and secret_key")
        return S3Keys.model_validate_json(self.keys_file.read_text())


class MlflowSettings(Section):
    url: str = "http://127.0.0.1:5000"


class RaySettings(Section):
    address: str = "127.0.0.1:6379"
    token_file: Path | None = None


class ServiceSettings(Section):
    host: str = "127.0.0.1"
    port: int = 8000
    ordinal: int = Field(default=0, description="Of this process among those of its service.", ge=0)
    data_dir: Path = Path(".ctloop/service")


class Address(Section):
    url: str = ""


class Settings(BaseSettings):
    """Built once, in the composition root; values are passed down, never this object."""

    model_config = SettingsConfigDict(
        env_prefix="CTLOOP_",
        env_nested_delimiter="__",
        frozen=True,
        extra="ignore",
        nested_model_default_partial_update=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    postgres: PostgresSettings = PostgresSettings()
    s3: S3Settings = S3Settings()
    mlflow: MlflowSettings = MlflowSettings()
    ray: RaySettings = RaySettings()
    service: ServiceSettings = ServiceSettings()
    ingestion: Address = Address()
    validation: Address = Address()
    training: Address = Address()
    registry: Address = Address()
    serving: Address = Address()
    monitoring: Address = Address()
    console: Address = Address()
