"""What can go wrong between here and the hub, each in a sentence of its own."""

import errno
import re

from ..errors import Error

OFFLINE = "not in the cache and the hub cannot be reached: connect, or name a local folder"
FULL = {errno.ENOSPC: "disk is full", errno.EDQUOT: "quota is used up", errno.EFBIG: "largest file size is reached"}
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class NoSuchRevision(Error):
    """The hub was reached and says that there is no such revision: what the cache holds of it counts no more."""


def where(repository: str, revision: str | None) -> str:
    return f"hub id {repository}" + (f" at revision {revision}" if revision else "")


def refused(at: str, error: Exception) -> Error:
    """Why the hub does not tell what a repository holds."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, Error):
        return Error(f"{at}: {error}")
    if isinstance(error, errors.HFValidationError):
        return Error(f"{at}: is no valid id ({one_line(error)}), expected 'owner/name': check the name")
    if isinstance(error, errors.RevisionNotFoundError):
        return NoSuchRevision(f"{at}: the hub knows no such revision, expected a branch, tag or commit: check it")
    if isinstance(error, errors.HfHubHTTPError):
        return Error(f"{at}: {status_text(error)}")
    if isinstance(error, httpx2.TooManyRedirects):
        return Error(f"{at}: the hub leads round in a circle, expected an answer: check HF_ENDPOINT, or try later")
    if isinstance(error, OSError | httpx2.TransportError):  # closed, silent, no such host, forbidden by HF_HUB_OFFLINE
        return Error(f"{at}: {OFFLINE}")
    found = one_line(error)
    return Error(f"{at}: what answers is no hub ({found}), expected a repository's list of files: check HF_ENDPOINT")


def interrupted(at: str, name: str, error: Exception) -> Error:
    """Why a file did not arrive, though the hub has listed it."""
    import httpx2
    from huggingface_hub import constants, errors

    whole, at = at, f"{at}: {name}"
    if isinstance(error, Error):
        return Error(f"{at} {error}")
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what the library met when it asked for the file's size
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return Error(f"{at} is listed by the hub but not to be had there: try again later, or name another revision")
    if isinstance(error, errors.HfHubHTTPError):
        return Error(f"{whole}: {status_text(error)}")
    if isinstance(error, httpx2.TooManyRedirects):
        return Error(f"{at} leads round in a circle, expected a file: try again later, or set another HF_ENDPOINT")
    if isinstance(error, httpx2.ReadTimeout):
        seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT
        return Error(f"{at} did not arrive, not a byte came for {seconds:g} s, again and again: try again later")
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return Error(f"{at} did not arrive, the hub has gone away in the middle: connect, then try again")
    if isinstance(error, httpx2.TransportError):
        return Error(f"{at} did not arrive, the connection was cut again and again ({one_line(error)}): try again")
    if isinstance(error, OSError):
        return Error(f"{at} {storage_text(error)}")
    return Error(f"{at} did not arrive ({type(error).__name__}: {one_line(error)}): try again")


def storage_text(error: OSError) -> str:
    """What the disk, or the library's look at the size, found wrong."""
    from huggingface_hub import constants

    if error.errno in FULL:
        return f"cannot be kept, the {FULL[error.errno]} at {constants.HF_HUB_CACHE}: make room, or set HF_HUB_CACHE"
    if error.errno in FORBIDDEN:
        found = f"{constants.HF_HUB_CACHE} may not be written to ({error.strerror})"
        return f"cannot be kept, {found}: set HF_HUB_CACHE to a folder of your own"
    if sizes := re.search(r"should be of size (\d+) but has size (\d+)", str(error)):
        return f"arrived with {int(sizes[2]):,} bytes, expected {int(sizes[1]):,}: try again, or another HF_ENDPOINT"
    return f"did not arrive ({one_line(error)}): try again"


def status_text(error: Exception) -> str:
    """What a status of the hub's means, and what one can do."""
    from huggingface_hub import errors

    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        if status == 401:
            return "is gated, expected an account with access: accept its terms and set HF_TOKEN"
        return "is gated, and the account of the token has no access: accept its terms with it, or set another HF_TOKEN"
    if isinstance(error, errors.DisabledRepoError):
        return "is disabled on the hub: choose another repository"
    refused_token = error.response.headers.get("X-Error-Message") == "Invalid credentials in Authorization header"
    if isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and not refused_token):
        return "the hub knows no such repository, or it is private: check the spelling and HF_TOKEN"
    if status == 401:
        return "the hub does not accept the token (status 401), expected a valid one: renew HF_TOKEN, or unset it"
    if status == 403:
        return "the token does not permit this (status 403), expected one with read access: set another HF_TOKEN"
    if status == 429:
        return "the hub has had too many requests (status 429): wait some minutes, or set HF_TOKEN"
    if status >= 500:
        return f"the hub is out of order (status {status}): try again later"
    return f"the hub answers with status {status}, expected 200: check HF_ENDPOINT"


def one_line(error: Exception) -> str:
    """An error's own words, without line breaks and cut where they grow long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."
