"""The environment variables that lead to the hub, each asked for sense before the library takes it at its word."""

import os
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import Error, shown

YES, NO = ("1", "ON", "YES", "TRUE"), ("0", "OFF", "NO", "FALSE", "")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def check_settings(*, online: bool = False) -> None:
    """Error for the first variable that means nothing, of those that are needed to ask the hub only if `online`."""
    for name, check in (READ_AT_ONCE | (ONLINE if online else {})).items():
        value = os.environ.get(name)
        if value is not None and (expected := check(value)):
            found = "a text that cannot be shown" if "TOKEN" in name else shown(re.sub("//[^/@]*@", "//...@", value))
            raise Error(f"the environment variable {name} is {found}, expected {expected}: set it anew, or unset it")


def check_token_file(path: str | Path) -> None:
    """Error for a token that was kept by logging in, and is none; without a file there is none, which is right."""
    if any(os.environ.get(name) for name in TOKENS) or not os.path.lexists(path):
        return
    try:
        expected = _token(Path(path).read_text())
    except (OSError, ValueError) as error:
        expected = f"a text ({getattr(error, 'strerror', None) or 'it is none'})"
    if expected:
        raise Error(f"{path}: holds no token of the hub, expected {expected}: log in again, or remove the file")


def offline_by() -> str | None:
    """The variable that forbids to ask the hub, if one does."""
    return next((name for name in OFFLINE if os.environ.get(name, "").upper() in YES), None)


def _endpoint(value: str) -> str | None:
    return None if _is_address(value, ("http", "https")) else "an address such as https://huggingface.co"


def _is_address(value: str, schemes: tuple[str, ...]) -> bool:
    with suppress(ValueError):  # brackets that hold no IPv6 address, a port that is no number
        parts = urlsplit(value)
        plain = value.isascii() and value.isprintable() and " " not in value
        return plain and parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    return False


def _proxy(value: str) -> str | None:
    scheme = value.partition("://")[0] if "://" in value else "http"
    if not value or _is_address(value if "://" in value else f"http://{value}", ("http", "https")):
        return None
    if scheme in ("socks5", "socks5h") and _is_address(value, (scheme,)):
        return None if find_spec("socksio") else f"{value} only beside the package socksio, which is not installed"
    return "an address such as http://proxy.example:3128"


def _seconds(value: str) -> str | None:
    return None if re.fullmatch(r"[1-9]\d{0,8}", value.strip()) else "a whole number of seconds, at least 1"


def _switch(value: str) -> str | None:
    return None if value.upper() in (*YES, *NO) else "1 or 0"


def _folder(value: str) -> str | None:
    """Not whether it is there: the library makes it."""
    path = Path(os.path.expandvars(os.path.expanduser(value)))
    if not value.strip() or str(path).startswith("~") or "$" in str(path):
        return "a folder, in which every ~ and $ stands for something"
    with suppress(OSError):  # not ours to look into: what writes there will say so
        above = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
        return None if above.is_dir() else f"a folder, but {above} is none"
    return None


def _token(value: str) -> str | None:
    plain = re.fullmatch(r"[!-~]*", value.strip())
    return None if plain else "one word of ASCII, with no blank and no line break within"


def _certificate(value: str) -> str | None:
    try:
        if value:
            ssl.create_default_context(cafile=value)
    except ssl.SSLError as error:
        return f"a file of certificates in PEM form ({error.reason or error})"
    except (OSError, ValueError) as error:
        return f"a file of certificates that can be read ({getattr(error, 'strerror', None) or error})"
    return None


def _certificates(value: str) -> str | None:
    return None if not value or all(map(os.path.isdir, value.split(os.pathsep))) else "a folder of certificates"


def _key_log(value: str) -> str | None:
    """Where Python writes the keys of its connections to: asked before certificates, which it would fail beside."""
    place = Path(value).absolute()
    fits = not value or (os.access(place if place.exists() else place.parent, os.W_OK) and not place.is_dir())
    return None if fits else "a file that can be written"


def _word(value: str) -> str | None:
    return None if value.isascii() and value.isprintable() else "one line of ASCII"


Check = Callable[[str], str | None]  # what is expected where the value means nothing
READ_AT_ONCE: dict[str, Check] = {  # by the library, when it is imported
    "HF_ENDPOINT": _endpoint,
    "HF_HUB_ETAG_TIMEOUT": _seconds,
    "HF_HUB_DOWNLOAD_TIMEOUT": _seconds,
    **dict.fromkeys(("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"), _folder),
    "XDG_CACHE_HOME": lambda value: _folder(value) if value else None,
    **dict.fromkeys(OFFLINE, _switch),
}
ONLINE: dict[str, Check] = {
    **dict.fromkeys(TOKENS, _token),
    "HF_HUB_USER_AGENT_ORIGIN": _word,
    **{name: _proxy for proxy in PROXIES for name in (proxy, proxy.lower())},
    "SSLKEYLOGFILE": _key_log,
    "SSL_CERT_FILE": _certificate,
    "SSL_CERT_DIR": _certificates,
}
