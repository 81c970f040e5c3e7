"""How the object store is reached: one address and pair of keys for objects and the lake."""

from dataclasses import dataclass, field
from typing import Self

from ctloop.platform.settings import S3Settings


@dataclass(frozen=True)
class S3Access:
    """Endpoint, keys and bucket; a plain value, so that a worker process can be given it."""

    endpoint: str
    """http(s)://host:port"""
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str
    region: str = "us-east-1"

    @classmethod
    def of(cls, settings: S3Settings) -> Self:
        """From the settings; reads the file of keys.

        Raises:
            ValueError: no file of keys is set.
        """
        keys = settings.keys()
        return cls(
            settings.endpoint, keys.access_key, keys.secret_key.get_secret_value(), settings.bucket, settings.region
        )

    @property
    def secure(self) -> bool:
        return self.endpoint.startswith("https://")

    @property
    def host(self) -> str:
        """host:port"""
        return self.endpoint.split("://", 1)[-1].rstrip("/")

    def uri(self, key: str) -> str:
        """The s3:// name of an object of the bucket."""
        return f"s3://{self.bucket}/{key}"

    def delta_options(self) -> dict[str, str]:
        """What delta-rs wants to know; conditional PUT is how it commits without a lock service."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_ALLOW_HTTP": "false" if self.secure else "true",
            "AWS_CONDITIONAL_PUT": "etag",
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
            "AWS_EC2_METADATA_DISABLED": "true",
            "connect_timeout": "2 seconds",
            "timeout": "30 seconds",
        }
