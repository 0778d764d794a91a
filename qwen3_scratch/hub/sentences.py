"""What can go wrong on the way to the hub: a sentence for each class of error, with its HTTP status or an errno.

Classes bear names here, since the transport's are huggingface_hub's own affair: it has changed them before.
"""

import os
import ssl
import textwrap
from collections.abc import Iterator

from ..errors import Error, one_line
from .settings import PROXIES, offline_by


class NoSuchRevision(Error):
    """The hub was reached and says that there is no such revision: what the cache holds of it counts no more."""


SILENT = "not in the cache and the hub cannot be reached{through}: connect, or name a local folder"
OFFLINE = "not in the cache and the hub cannot be reached, since {offline} forbids it: unset it, or name a local folder"
NOT_TRUSTED = "the hub's certificate is not trusted ({said}): set SSL_CERT_FILE to the file of who signed it"
PROXY = "the proxy of {proxies} does not let through to the hub ({said}): check that variable"
ANSWERS = {
    "OfflineModeIsEnabled": OFFLINE,
    "SSLCertVerificationError": NOT_TRUSTED,
    "SSLError": "what answers does not speak https ({said}): check HF_ENDPOINT",
    "ProxyError": PROXY,
    "GatedRepoError": "is gated, expected an account with access: accept its terms and set HF_TOKEN",
    "DisabledRepoError": "is disabled on the hub: choose another repository",
    "RepositoryNotFoundError": "the hub knows no such repository, or it is private: check the spelling and HF_TOKEN",
    "HfHubHTTPError 401": "the hub does not accept the token (status 401): check the name, renew HF_TOKEN, or unset it",
    "HfHubHTTPError 403": "the token does not permit this (status 403), expected read access: set another HF_TOKEN",
    "HfHubHTTPError 429": "the hub has had too many requests (status 429): wait some minutes, or set HF_TOKEN",
    "HfHubHTTPError 5xx": "the hub is out of order (status {status}): try again later",
    "HfHubHTTPError": "the hub answers with status {status}, expected 200: check HF_ENDPOINT",
}
INSTEAD_OF_THE_LIST = ANSWERS | {
    "HFValidationError": "is no valid id ({said}), expected 'owner/name': check the name",
    "RevisionNotFoundError": "the hub knows no such revision, expected a branch, tag or commit: check it",
    **dict.fromkeys(("TransportError", "OSError"), SILENT),  # closed, silent, no such host, or forbidden from here
    "Exception": "what answers is no hub ({said}), expected a list of files, sizes and hashes: check HF_ENDPOINT",
}
INSTEAD_OF_A_FILE = ANSWERS | {
    "RemoteEntryNotFoundError": "{name} is listed by the hub but not to be had there: try later, or another revision",
    "TransportError": "{name} did not arrive, the connection failed again and again ({said}): try again later",
    "OSError errno": "{name} cannot be kept at {cache} ({reason}): make room, or set HF_HUB_CACHE to another folder",
    "Exception": "{name} did not arrive ({said}): try again, or set another HF_ENDPOINT",
}


def explained(at: str, error: BaseException, name: str = "") -> Error:
    """Why the hub's list did not come or, with its `name`, a file."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        error = error.__cause__ or error  # what the library met when it asked for the file's size
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):  # within the transport's own error
            error = cause
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    reason, said = getattr(error, "strerror", None), one_line(textwrap.shorten(str(error), 120, placeholder="..."))
    endings = (f" {status}", f" {status // 100}xx", " errno" if reason else "", "")
    table = INSTEAD_OF_A_FILE if name else INSTEAD_OF_THE_LIST
    key = next(k.__name__ + e for k in type(error).__mro__ for e in endings if k.__name__ + e in table)
    proxies = " and ".join(name for each in PROXIES for name in (each, each.lower()) if os.environ.get(name))
    through = f" through the proxy of {proxies}" if proxies else ""
    facts = dict(name=name, status=status, reason=reason, said=said or key, cache=constants.HF_HUB_CACHE)
    facts |= dict(proxies=proxies or "the system", through=through, offline=offline_by())
    # A script may have switched the library offline, since nothing answered: then there is no variable to be unset.
    sentence = SILENT if table[key] is OFFLINE and offline_by() is None else table[key]
    return (NoSuchRevision if key == "RevisionNotFoundError" else Error)(f"{at}: {sentence.format(**facts)}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
