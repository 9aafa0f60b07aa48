"""Requests to archives: few at a time, timed, tried again, checked and kept.

`Transport.download` fetches files, `Transport.get` answers and parts of files;
`Transport.session` is a `requests.Session` that client
libraries such as astroquery work through; `Transport.call` runs a client that makes
connections of its own.
"""

import contextlib
import json
import os
import re
import tempfile
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

__all__ = ["ArchiveError", "Transport", "run_with_deadline"]

N_CONNECTIONS = 4
"""Requests to one host at a time."""
INTERVALS = {"skyserver.sdss.org": 1.0}  # it takes at most 60 queries a minute
LONGEST_WAIT = 30.0  # seconds that a server's Retry-After is heeded
BLOCK = 65536
TRY_LATER = "try again later, or pass a longer timeout or more n_retries"


class ArchiveError(Exception):
    """An archive could not give a product.

    Parameters
    ----------
    reason : str
        What went wrong, without the archive's name.
    advice : str
        What to try.
    retry : bool, optional
        Whether the same request may succeed a little later.
    retry_after : float, optional
        Seconds that the server asks to wait.
    missing : bool, optional
        Whether the server says that there is nothing at the address.
    partial : object, optional
        The part of the product that did come.
    """

    def __init__(
        self, reason, advice, *, retry=False, retry_after=0.0, missing=False, partial=None
    ):
        super().__init__(f"{reason}; {advice}")
        self.reason, self.advice = str(reason), str(advice)
        self.retry, self.retry_after = retry, retry_after
        self.missing, self.partial = missing, partial


def run_with_deadline(function, seconds):
    """Return what a function returns, or stop waiting for it.

    The function runs in a daemon thread, which is left behind at the deadline: this is the
    only limit that holds against a server which sends a byte now and then, whatever client
    reads them.

    Parameters
    ----------
    function : callable
        Takes no arguments.
    seconds : float

    Raises
    ------
    TimeoutError
        At the deadline.
    """
    done = []

    def target():
        try:
            done.append((function(), None))
        except BaseException as error:  # handed to the caller, whatever it is
            done.append((None, error))

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    if not done:
        msg = f"no complete answer within {seconds:g} s"
        raise TimeoutError(msg)
    result, error = done[0]
    if error is not None:
        raise error
    return result


class _Gate:
    """Lets few requests to a host through at a time, and not too soon after each other."""

    _gates = {}
    _lock = threading.Lock()

    def __init__(self, interval):
        self.slots = threading.BoundedSemaphore(N_CONNECTIONS)
        self.interval, self.next_start, self.lock = interval, 0.0, threading.Lock()

    @classmethod
    def of(cls, host):
        """Return the gate of a host, the same for all threads."""
        with cls._lock:
            return cls._gates.setdefault(host, cls(INTERVALS.get(host, 0.0)))

    def __enter__(self):
        self.slots.acquire()
        with self.lock:
            start = max(self.next_start, time.monotonic())
            self.next_start = start + self.interval
        time.sleep(max(0.0, start - time.monotonic()))

    def __exit__(self, *_):
        self.slots.release()


class Transport:
    """A connection to archives.

    Parameters
    ----------
    timeout, n_retries, retry_wait, cache
        See `astroclip.archives.base.Settings`.
    """

    def __init__(self, *, timeout=60.0, n_retries=2, retry_wait=1.0, cache=True):
        self.timeout, self.n_retries, self.retry_wait = timeout, n_retries, retry_wait
        self.cache = cache
        self.stopped = threading.Event()
        self._local, self._sessions = threading.local(), []
        self._folder = tempfile.TemporaryDirectory(
            prefix="astroclip-", ignore_cleanup_errors=True
        )
        weakref.finalize(self, self._folder.cleanup)

    @classmethod
    def of(cls, settings):
        """Return a transport with the patience of some settings."""
        return cls(
            timeout=settings.timeout, n_retries=settings.n_retries,
            retry_wait=settings.retry_wait, cache=settings.cache,
        )

    def close(self):
        """Close all connections, forget files that are not in the cache, end waits."""
        self.stopped.set()
        for session in self._sessions:
            session.close()
        self._folder.cleanup()

    def session(self, *, check=None):
        """Return a session whose requests are timed, tried again and checked.

        Parameters
        ----------
        check : callable, optional
            Takes every response and raises ArchiveError if it is not what was asked for.

        Returns
        -------
        `requests.Session`
        """
        session = _Session(self, check)
        self._sessions.append(session)
        return session

    def get(self, url, *, headers=None):
        """Return the response to a request; see `Transport.session`.

        Parameters
        ----------
        url : str
        headers : dict, optional
            With a ``Range``, a server that sends the whole file is read only so far that
            the answer tells what it is.

        Returns
        -------
        `requests.Response`
        """
        if not hasattr(self._local, "session"):  # one for each thread
            self._local.session = self.session()
        return self._local.session.get(url, headers=headers)

    def download(self, url, *, check, params=None):
        """Return the path of a downloaded file that passed a check.

        Parameters
        ----------
        url : str
        check : callable
            Takes the path; raises ArchiveError if the file is not what was asked for, which
            then is not kept.
        params : dict, optional
            The query.

        Returns
        -------
        `pathlib.Path`
            In astropy's cache, or in a folder that lasts as long as this object.
        """
        url = requests.Request("GET", url, params=params).prepare().url
        return self.keep(url, lambda: self.get(url).content, check=check)

    def keep(self, url, make, *, check):
        """Return the path of a file that passed a check, made unless it is in the cache.

        Parameters
        ----------
        url : str
            Name of the file in the cache: its address, with a fragment if it is a part.
        make : callable
            Takes no arguments and returns the file's bytes.
        check : callable
            See `download`.

        Returns
        -------
        `pathlib.Path`
            See `download`.
        """
        path = _cached(url) if self.cache else None
        if path is not None:
            try:
                check(path)
            except ArchiveError:  # damaged in the cache; fetch it again
                _forget(url)
            else:
                return path
        content = make()
        handle, name = tempfile.mkstemp(dir=self._folder.name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        path = Path(name)
        check(path)
        return _keep(url, path) if self.cache else path

    def call(self, function, *, host, translate=None):
        """Return what a client's function returns, timed and tried again.

        Parameters
        ----------
        function : callable
            Takes no arguments.
        host : str
            Whom it asks.
        translate : callable, optional
            Takes an exception and returns an ArchiveError, or None if it does not know it.

        Raises
        ------
        ArchiveError
        """
        wait = self.retry_wait
        for tries_left in range(self.n_retries, -1, -1):
            if self.stopped.is_set():
                raise ArchiveError("the download was stopped", "ask again")
            try:
                with _Gate.of(host):
                    return run_with_deadline(function, self.timeout)
            except Exception as error:  # those of networks become ArchiveErrors, others are raised
                failure = _as_archive_error(error, translate)
                if failure is None:
                    raise
                if not (failure.retry and tries_left):
                    raise failure from error
            self.stopped.wait(max(wait, failure.retry_after))
            wait *= 2
        raise failure


def _as_archive_error(error, translate):
    """Return a network's failure as an ArchiveError, None for other exceptions."""
    if isinstance(error, ArchiveError):
        return error
    known = translate(error) if translate is not None else None
    if known is not None:
        return known
    if isinstance(error, requests.Timeout):
        return ArchiveError("no answer in time", TRY_LATER, retry=True)
    if isinstance(error, TimeoutError):
        return ArchiveError(str(error) or "no answer in time", TRY_LATER, retry=True)
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return ArchiveError("the connection broke before the end", TRY_LATER, retry=True)
    if isinstance(error, requests.RequestException | ConnectionError):
        return ArchiveError(
            f"no connection ({_root_cause(error)})",
            "check the network, and whether the service is up; " + TRY_LATER,
            retry=not isinstance(error, requests.exceptions.InvalidURL),
        )
    return None


def _root_cause(error):
    """Return the last line of the innermost exception, which is the one that tells."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return str(error).strip().rsplit(": ", 1)[-1][:120] or type(error).__name__


# ---------------------------------------------------------------------- one request
class _Session(requests.Session):
    """A session that waits for its turn, reads answers whole and raises ArchiveErrors."""

    def __init__(self, transport, check):
        super().__init__()
        self._transport, self._check = transport, check

    def request(self, method, url, **options):
        """Return a complete response of a status below 400."""
        options |= {"stream": True, "timeout": self._transport.timeout}
        once = partial(self._once, method, url, options)
        return self._transport.call(once, host=urlsplit(url).netloc)

    def _once(self, method, url, options):
        deadline = time.monotonic() + self._transport.timeout
        part = "Range" in (options.get("headers") or {})
        with super().request(method, url, **options) as response:
            blocks = []
            for block in _blocks(response):
                blocks.append(block)
                if part and response.status_code == 200:  # the whole file, which may be large
                    break
                if time.monotonic() > deadline or self._transport.stopped.is_set():
                    msg = f"no complete answer within {self._transport.timeout:g} s"
                    raise TimeoutError(msg)
        response._content, response._content_consumed = b"".join(blocks), True
        _check_status(response)
        if self._check is not None:
            self._check(response)
        return response


def _blocks(response):
    """Yield what arrives as it arrives: a read of a full block would wait for it."""
    chunked = response.headers.get("Transfer-Encoding") == "chunked"
    if chunked or not hasattr(response.raw, "read1"):  # urllib3 before 2
        yield from response.iter_content(None if chunked else 1024)
        return
    try:
        while block := response.raw.read1(BLOCK, decode_content=True):
            yield block
    except ReadTimeoutError as error:
        raise requests.exceptions.ReadTimeout(error) from error
    except HTTPError as error:
        raise requests.exceptions.ChunkedEncodingError(error) from error


def _check_status(response):
    """Raise ArchiveError for a response of status 400 or above."""
    status = response.status_code
    if status < 400:
        return
    said = _said(response.content)
    reason = f"HTTP {status} {response.reason or ''}".strip() + (f" ({said})" if said else "")
    if status >= 500 or status == 429:
        wait = response.headers.get("Retry-After", "")
        after = min(float(wait), LONGEST_WAIT) if wait.isdigit() else 0.0
        raise ArchiveError(reason, "the service is in trouble or busy: " + TRY_LATER,
                           retry=True, retry_after=after)
    advice = "check the position and the options, and that the service has not moved"
    if status == 404:
        advice = f"there is nothing at {response.url.split('?')[0]}: {advice}"
    raise ArchiveError(reason, advice, missing=status == 404)


def _said(content):
    """Return what an error page says, in a few words, or nothing."""
    text = content[:4096].decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError):
        answer = json.loads(text)
        if isinstance(answer, dict):
            named = [answer.get(key) for key in ("title", "description", "detail", "message")]
            return ": ".join(str(value) for value in named if value)[:200]
    title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    text = title[1] if title else re.sub(r"<[^>]*>", " ", text)
    return " ".join(text.split())[:120]


# ---------------------------------------------------------------------- astropy's cache
def _cached(url):
    """Return the path of a URL's file in astropy's cache, or None."""
    from astropy.utils.data import download_file

    with contextlib.suppress(KeyError, OSError, ValueError):  # without sources: not there
        return Path(download_file(url, cache=True, sources=[], show_progress=False))
    return None


def _keep(url, path):
    """Return the path of a file put into astropy's cache; its own if that cannot be written.

    What another thread or process has put there meanwhile stays: it may be reading it.
    """
    from astropy.utils.data import import_file_to_cache

    try:
        return Path(import_file_to_cache(url, str(path), remove_original=True, replace=False))
    except OSError:
        return path


def _forget(url):
    """Remove a URL's file from astropy's cache."""
    from astropy.utils.data import clear_download_cache

    clear_download_cache(url)
