"""Options of a store on the command line: which may stand there, and where the others go."""

from __future__ import annotations

import pytest

from holdfast.cli.access import _option
from holdfast.errors import UsageError
from holdfast.wiring import credential_variables, secret_options


@pytest.mark.parametrize(
    ("url", "option", "variable"),
    [
        ("s3://b", "access_key_secret", "AWS_SECRET_ACCESS_KEY"),
        ("s3://b", "session_token", "AWS_SESSION_TOKEN"),
        ("oss://b/p", "access_key_secret", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
        ("oss://b/p", "session_token", "ALIBABA_CLOUD_SECURITY_TOKEN"),
        ("gs://b", "credential", "GOOGLE_CREDENTIALS"),
        ("azblob://b", "sas_token", "AZURE_STORAGE_SAS_TOKEN"),
        ("b2://b", "access_key_secret", "B2_APPLICATION_KEY"),
        ("webdav+https://h/f", "password", "WEBDAV_PASSWORD"),
        ("sftp://h/f", "password", "SFTP_PASSWORD"),
        ("s3://b", "password", "no such option"),
    ],
)
def test_a_secret_on_the_command_line_is_refused_and_its_variable_named(url: str, option: str, variable: str) -> None:
    with pytest.raises(UsageError) as caught:
        _option(f"{option}=hush", secret_options(url))
    assert variable in caught.value.hint
    assert "hush" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("text", ["endpoint=https://a=b", "signature=v1", "account_name=acc", "access_key_id=AKID"])
def test_what_is_no_secret_goes_on(text: str) -> None:
    name, value = _option(text, secret_options("oss://b"))
    assert f"{name}={value}" == text


def test_the_variables_that_let_one_in() -> None:
    assert credential_variables("file:///f") == ()
    assert credential_variables("s3://b") == ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert credential_variables("azblob://b") == ("AZURE_STORAGE_KEY",)
    assert credential_variables("oss://b")[1] == "ALIBABA_CLOUD_ACCESS_KEY_SECRET"
