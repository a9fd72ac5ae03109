"""`python -m vlinders_auth.mint`: prints a fresh API key and password, as one JSON object."""

import json
import secrets
import sys

from vlinders_kit import api_keys


def main() -> None:
    """Whoever calls keeps them: they are stored nowhere else."""
    minted = {"api_key": api_keys.new(), "password": secrets.token_urlsafe(18)}
    sys.stdout.write(json.dumps(minted) + "\n")


if __name__ == "__main__":
    main()
