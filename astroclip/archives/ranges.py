"""A file on a server, of which only the parts that are read are fetched."""

import io
import re

from astroclip.archives.base import refuse_html
from astroclip.archives.transport import TRY_LATER, ArchiveError

__all__ = ["RangeFile"]

BLOCK = 16384  # bytes fetched at least: a FITS header or two
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class RangeFile(io.RawIOBase):
    """A file on a server as a file object, for `astropy.io.fits.open`.

    Parts are fetched by HTTP ranges (RFC 9110, section 14) over a `Transport`, with its
    time-outs and retries. Only the last part is remembered.

    Parameters
    ----------
    transport : Transport
    url : str

    Raises
    ------
    ArchiveError
        If there is no such file, or the server sends whole files only.
    """

    def __init__(self, transport, url):
        self._transport, self._url = transport, url
        self._position, self._start = 0, 0
        self._fetch(BLOCK)

    def readable(self):
        """Return True."""
        return True

    def seekable(self):
        """Return True."""
        return True

    def tell(self):
        """Return the position."""
        return self._position

    def seek(self, offset, whence=io.SEEK_SET):
        """Set and return the position."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer):
        """Fill a buffer from the position on, and return how many bytes there were."""
        n_bytes = max(0, min(len(buffer), self._size - self._position))
        at = self._position - self._start
        if n_bytes and not 0 <= at <= len(self._part) - n_bytes:
            self._fetch(max(n_bytes, BLOCK))
            at = 0
        buffer[:n_bytes] = self._part[at : at + n_bytes]
        self._position += n_bytes
        return n_bytes

    def _fetch(self, n_bytes):
        """Fetch the part that begins at the position."""
        first = self._position
        # compressed, the bytes counted would be others
        headers = {"Range": f"bytes={first}-{first + n_bytes - 1}", "Accept-Encoding": "identity"}
        response = self._transport.get(self._url, headers=headers)
        if response.status_code != 206:
            refuse_html(response.content[:2048], "a part of a file")
            raise ArchiveError(
                "the whole file instead of the part asked for",
                f"a proxy in the way may take no ranges: ask without it, or download {self._url} "
                f"and pass the file to astroclip.embed",
            )
        found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        self._size = int(found[2]) if found else 0
        expected = min(n_bytes, self._size - first)
        if not found or int(found[1]) != first or len(response.content) != expected:
            raise ArchiveError(
                "another part of the file than asked for, or not all of it", TRY_LATER
            )
        self._start, self._part = first, response.content
