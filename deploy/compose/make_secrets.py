"""Make the secrets docker-compose.yml mounts, once: files in a folder only you can enter, never overwritten."""

import json
import secrets
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "secrets"
ROLES = ("ingestion", "validation", "training", "registry", "monitoring", "console")


def write(name: str, content: str) -> None:
    """Write one secret; readable inside the container, whose user is another one than yours."""
    path = FOLDER / name
    if not path.exists():
        path.write_text(content)
        path.chmod(0o444)


def main() -> None:
    """Make what is missing."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    FOLDER.chmod(0o700)
    if (FOLDER / "s3_keys.json").exists():
        return
    roles = {role: secrets.token_urlsafe(24) for role in ROLES}
    access, secret = secrets.token_hex(10), secrets.token_urlsafe(32)
    write("postgres_password", secrets.token_urlsafe(24))
    write("postgres_roles.json", json.dumps(roles))
    for role, password in roles.items():
        write(f"postgres_{role}", password)
    write("s3_access_key", access)
    write("s3_secret_key", secret)
    write("ray_token", secrets.token_hex(32))
    write("s3_keys.json", json.dumps({"access_key": access, "secret_key": secret}))


if __name__ == "__main__":
    main()
