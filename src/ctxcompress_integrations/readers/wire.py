"""JSON over HTTP to an OpenAI-compatible server, by the standard library: posts, event streams, errors in one line."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from ctxcompress_integrations.errors import ReaderError

MAX_ERROR = 300
"""Characters of a server's error that are passed on."""


class RefusedError(ReaderError):
    """The server answered with an error.

    Attributes:
        status: HTTP status.
        reason: what the server said, in one line.
    """

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to somebody else: it is an error like any other."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Server:
    """One server.

    Args:
        url: its base, "http://host:port/v1".
        api_key: sent as a bearer token; appears in no message and no repr.
        timeout: seconds of silence after which a request fails.

    Raises:
        ValueError: a URL that is not http or https, a timeout that is not positive.
    """

    def __init__(self, url: str, *, api_key: str | None, timeout: float) -> None:
        split = urlsplit(url)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise ValueError(f"url must be the base of a server such as 'http://localhost:8000/v1', got {url!r}")
        if split.username or split.password:
            raise ValueError("the url must not hold a password; pass api_key=")
        if not timeout > 0:
            raise ValueError(f"timeout must be > 0 seconds, got {timeout!r}")
        self.url, self.timeout, self._api_key = url.rstrip("/"), timeout, api_key
        self._opener = urllib.request.build_opener(_NoRedirects)

    def __repr__(self) -> str:
        return f"Server({self.url!r})"

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The server's JSON answer.

        Raises:
            RefusedError: the server said no.
            ReaderError: no connection, silence, or an answer that is no JSON.
        """
        with self._open(path, body) as response:
            text = response.read()
        try:
            return json.loads(text)
        except ValueError as error:
            raise ReaderError(f"{self.url}{path} answered with something that is no JSON: {text[:80]!r}") from error

    def events(self, path: str, body: Mapping[str, Any]) -> Generator[Any, None, None]:
        """The JSON values of the server's event stream; leaving the iterator closes the connection.

        Raises:
            RefusedError, ReaderError: as :meth:`post`; also when the stream ends before the server says so.
        """
        with self._open(path, body) as response:
            for line in response:
                field, _, value = line.decode("utf-8", "replace").strip().partition(":")
                if field != "data":
                    continue  # comments, event names, the blank line between events
                if value.strip() == "[DONE]":
                    return
                try:
                    event = json.loads(value)
                except ValueError as error:
                    raise ReaderError(f"{self.url}{path} sent an event that is no JSON: {value[:80]!r}") from error
                if isinstance(event, dict) and "error" in event:
                    raise ReaderError(f"{self.url}{path} broke its answer off: {_reason(value)}")
                yield event
        raise ReaderError(f"{self.url}{path} closed the connection in the middle of its answer; ask again")

    @contextmanager
    def _open(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)  # noqa: S310 - checked
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                yield response
        except urllib.error.HTTPError as error:
            with error:
                reason = _reason(_body(error))
            message = f"{self.url}{path} refused the request ({error.code} {error.reason}): {reason}"
            raise RefusedError(message, error.code, reason) from error
        except TimeoutError as error:
            raise ReaderError(f"{self.url}{path} was silent for {self.timeout:g} seconds; raise timeout=") from error
        except (OSError, http.client.HTTPException) as error:
            raise ReaderError(
                f"no answer from {self.url}{path} ({error}); check that the server runs and the URL is right"
            ) from error


def _body(error: urllib.error.HTTPError) -> str:
    """What a refusal says; "" where it breaks off or does not come: the status is known."""
    try:
        return error.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""


def _reason(text: str) -> str:
    """The message of an error body, in one line: ``{"error": {"message": ...}}``, ``{"message": ...}`` or text."""
    try:
        body = json.loads(text)
    except ValueError:
        body = text
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and key in body:
            body = body[key]
    return " ".join(str(body).split())[:MAX_ERROR]
