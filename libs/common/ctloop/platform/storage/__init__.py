"""Objects and the lake: immutable bytes by content, datasets as versions."""

from ctloop.platform.storage.as_of import ARRIVED, INTERNAL, OBSERVED_AT, SEQUENCE, Roles
from ctloop.platform.storage.digests import DatasetDigest, lanes_to_bytes, row_digests, schema_text
from ctloop.platform.storage.lake import Appended, Lake
from ctloop.platform.storage.object_store import ObjectStore, StoreRefused
from ctloop.platform.storage.objects import Objects
from ctloop.platform.storage.s3_access import S3Access

__all__ = [
    "ARRIVED",
    "INTERNAL",
    "OBSERVED_AT",
    "SEQUENCE",
    "Appended",
    "DatasetDigest",
    "Lake",
    "ObjectStore",
    "Objects",
    "Roles",
    "S3Access",
    "StoreRefused",
    "lanes_to_bytes",
    "row_digests",
    "schema_text",
]
