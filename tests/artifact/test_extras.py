"""Errors that name an extra that is not installed."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
sys.modules[{module!r}] = None  # as if it were not installed
import animora_artifact
animora_artifact.open_store("models")
try:
    {call}
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [
        ("obstore", "animora_artifact.open_store('s3://bucket/models')", "animora-ranking[s3]"),
        ("model_signing", "animora_artifact.signature_check(Path('key.pem'))", "animora-ranking[signing]"),
        ("model_signing", "animora_artifact.signer(Path('key.pem'))", "animora-ranking[signing]"),
    ],
)
def test_a_missing_extra_is_named_and_only_needed_for_its_feature(module, call, extra):
    program = PROGRAM.format(module=module, call=call)
    result = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)
    assert f"pip install '{extra}'" in result.stdout
