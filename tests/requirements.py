"""A tool that a test needs: absent, the test is skipped; where CI promises the tool, it fails.

CI sets ``HOLDFAST_TEST_REQUIRE=1``: there a skip would hide that nothing was tested.
"""

from __future__ import annotations

import os

import pytest


def require(condition: object, reason: str) -> None:
    """Go on if ``condition`` holds; else skip with ``reason``, or fail where nothing may be skipped."""
    if condition:
        return
    if os.environ.get("HOLDFAST_TEST_REQUIRE") == "1":
        pytest.fail(f"must not be skipped here: {reason}")
    pytest.skip(reason)
