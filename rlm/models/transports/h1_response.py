"""HTTP/1.1 responses out of the bytes of a connection, by llhttp (httptools). No I/O."""

from __future__ import annotations

import zlib

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MOST_BYTES_WITHOUT_BODY = 128 * 1024
"""The bound for a head, with the interim responses before it, for trailers and for the extensions of chunks."""

MOST_INFLATED_BYTES = 1 << 26
"""The bound for what one piece of a compressed body may grow to: a megabyte can be made to hold a gigabyte."""


class BadResponse(Exception):
    """What a server has sent is no response. Its words quote nothing."""


class ResponseParser:
    """The response that is arriving on a connection, one after another.

    status, headers: valid once `has_head`; names in lower case, the values of a repeated one joined by a comma.
    body: what has come of it and was not taken; in one piece, for a list of two-byte chunks would be 20 times its size.
    `is_complete` between requests.
    keeps_alive: whether the connection may be used again; valid once `is_complete`.
    """

    __slots__ = (
        "_parser",
        "_without_body",
        "body",
        "has_head",
        "headers",
        "is_complete",
        "keeps_alive",
        "status",
    )

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.expect()
        self.is_complete = self.keeps_alive = True

    def expect(self) -> None:
        """Make ready for the answer to the next request."""
        self.body.clear()
        self._without_body = 0
        self.has_head = self.is_complete = self.keeps_alive = False

    def feed(self, data: bytes | memoryview) -> None:
        """Take what has come. Raises `BadResponse`; what follows a complete response only ends its connection."""
        self._without_body += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.keeps_alive = False
            if not self.is_complete:
                if isinstance(error.__context__, BadResponse):
                    raise error.__context__ from None
                raise BadResponse(f"no HTTP: {error}") from None  # one of the parser's fixed phrases
        if self._without_body > MOST_BYTES_WITHOUT_BODY and not self.is_complete:
            raise BadResponse(f"more than {MOST_BYTES_WITHOUT_BODY} bytes that are no body")

    def end(self) -> bool:
        """The server has closed: whether that is how this response was to end."""
        if self.has_head and not ("content-length" in self.headers or "transfer-encoding" in self.headers):
            self.is_complete = True
        return self.is_complete

    def take(self) -> bytes:
        """The body that has come since the last call."""
        taken = bytes(self.body)
        self.body.clear()
        return taken

    def close(self) -> None:
        """Let go of the parser, which refers back to this object."""
        del self._parser

    # what the parser calls

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise BadResponse("a second response to one request")
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_head:
            return  # a trailer
        key, text = name.lower().decode("latin-1"), value.strip(b" \t").decode("latin-1")
        headers = self.headers
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:
            if self.status == 101:
                raise BadResponse("a change of the protocol")
            return
        if self.headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise BadResponse("an unknown transfer-encoding")
        self.has_head = True

    def on_body(self, piece: bytes) -> None:
        if not self.has_head:
            raise BadResponse("an interim response with a body")  # it would become the beginning of the answer
        self.body += piece
        self._without_body = 0

    def on_message_complete(self) -> None:
        if self.has_head:  # else an interim response
            self.is_complete = True
            # Servers that send a body with a 204 or a 304 all the same would have it read as the next response.
            self.keeps_alive = self._parser.should_keep_alive() and self.status not in (204, 304)


class Decoder:
    """Undoes a gzip or deflate that nobody asked for. Raises `BadResponse` for another coding and for broken data."""

    def __init__(self, coding: str) -> None:
        coding = coding.strip().lower()
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise BadResponse("an unknown content-encoding")
        self._is_raw_possible = coding == "deflate"  # some send it without its zlib frame
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS if self._is_raw_possible else zlib.MAX_WBITS | 16)
        self._held = b""  # the two bytes by which a zlib frame is known
        self._has_begun = False

    def feed(self, piece: bytes) -> bytes:
        """The next part of the body."""
        if not self._has_begun:
            piece = self._held = self._held + piece
            if len(piece) < 2:
                return b""
            self._has_begun = True
            if self._is_raw_possible and (piece[0] & 0xF != 8 or int.from_bytes(piece[:2]) % 31):
                self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            out = self._inflate.decompress(piece, MOST_INFLATED_BYTES)
        except zlib.error:
            raise BadResponse("a body that cannot be decompressed") from None
        if self._inflate.unconsumed_tail:
            raise BadResponse(f"a compressed body of more than {MOST_INFLATED_BYTES} bytes")
        if self._inflate.unused_data:
            raise BadResponse("bytes behind its compressed body")
        return out

    def finish(self) -> None:
        """The body has ended."""
        if self._held and not self._inflate.eof:
            raise BadResponse("a compressed body that is cut off")


def decoder_for(headers: dict[str, str]) -> Decoder | None:
    """What decodes a body with these headers; None where it comes as it is."""
    coding = headers.get("content-encoding")
    return None if coding is None or coding.lower() in ("", "identity") else Decoder(coding)
