"""Every response of the contract cases is as the document of its dialect says."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.platform import Platform

RUNNER = Path(__file__).parents[3] / "shared" / "contracts" / "check" / "run.py"
WALK = Path(__file__).with_name("walk_contract_cases.py")


@pytest.mark.skipif(not RUNNER.exists(), reason="THE CONTRACT CASES ARE NOT HERE: none is walked")
async def test_no_response_of_a_contract_case_is_outside_its_schema(platform: Platform) -> None:
    access = platform.stack.access
    admin = (access["admin_email"], access["admin_password"])
    command = [sys.executable, str(WALK), str(RUNNER), platform.stack.url, *admin]
    walked = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)

    *outside, looked_at = walked.stdout.splitlines()
    assert outside == []
    assert int(looked_at) >= 100, walked.stderr
