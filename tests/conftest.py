"""What all tests share: threads, survey data that may be absent, property-test settings."""

import os
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("astroclip", deadline=None, max_examples=30)
hypothesis.settings.load_profile("astroclip")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data():
    """Return the folder of real survey data, or skip where it is absent."""
    shared = Path(os.environ.get("ASTROCLIP_SHARED", REPOSITORY.parent / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip(
            "real survey data beyond the bundled samples are not here (a folder 'shared' beside "
            "the repository, or ASTROCLIP_SHARED)"
        )
    return shared / "data"
