"""The proxy that the usual variables name, for libraries that would look them up for every request."""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from rlm.errors import UsageError
from rlm.models.transports.base import Endpoint


def proxy_of(endpoint: Endpoint) -> str | None:
    """The URL of the proxy for an endpoint, or None (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, in either case).

    Raises `UsageError` for a SOCKS proxy.
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
    scheme = urlsplit(proxy).scheme
    if scheme not in ("http", "https"):
        raise UsageError(f"a {scheme} proxy is not spoken here: pass transport='httpx2', or set NO_PROXY")
    return proxy
