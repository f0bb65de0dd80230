"""The proxy that the usual variables name, by one rule for every HTTP library."""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from rlm.errors import UsageError
from rlm.models.transports.base import Endpoint

_USABLE = ("http", "https", "socks5", "socks5h")


def proxy_of(endpoint: Endpoint) -> str | None:
    """The URL of the proxy for an endpoint, or None (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, in either case).

    Raises `UsageError`, not quoting it, for a proxy that cannot be used: going without it might send a prompt where it
    must not go.
    """
    if not endpoint.may_use_proxy:
        return None
    parts = urlsplit(endpoint.base_url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if _scheme_of(proxy) in _USABLE:
        return proxy
    variables = f"{parts.scheme.upper()}_PROXY or ALL_PROXY"
    raise UsageError(f"{variables} names no usable proxy: write for example http://proxy.test:3128, or set NO_PROXY")


def _scheme_of(proxy: str) -> str:
    """The scheme, or an empty text for what is no URL."""
    try:
        parts = urlsplit(proxy)
        return parts.scheme if parts.hostname and parts.port != 0 else ""
    except ValueError:
        return ""
