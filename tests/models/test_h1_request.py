"""The head of a request: what it names, and what is refused in it."""

from __future__ import annotations

import pytest
from transport_ways import call

from rlm.errors import UsageError
from rlm.models.transports.h1_request import request_head


@pytest.mark.parametrize(
    ("base_url", "path", "first", "host"),
    [
        ("http://A.test:80", "a b?c=d e&f=%20#g", "POST /a%20b?c=d%20e&f=%20 HTTP/1.1", "a.test"),
        ("https://a.test", "é", "POST /%C3%A9 HTTP/1.1", "a.test"),
        ("https://bücher.test:80", "", "POST / HTTP/1.1", "xn--bcher-kva.test:80"),
        ("http://[fe80::1%eth0]:8", "", "POST / HTTP/1.1", "[fe80::1]:8"),
    ],
)
def test_the_head_names_the_target_and_the_host(base_url: str, path: str, first: str, host: str) -> None:
    lines = request_head(call(base_url, path)).decode().split("\r\n")
    assert lines[:2] == [first, f"host: {host}"]
    assert lines[-1] == "content-length: "


@pytest.mark.parametrize("path", ["a\r\nx: y", "a\nb", "a\tb", "a\x00b", "a\x7fb"])
def test_a_url_that_could_begin_another_request_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="a control character in the URL"):
        request_head(call("http://a.test", path))
