"""Why TLS failed, where that never clears: a certificate, a version, a port that speaks something else."""

from __future__ import annotations

import ssl

from aembed.errors import AuthenticationError, NotFoundError, ProviderError
from aembed.providers._http._proxies import Proxy

# OpenSSL's names for bytes that are no record of TLS, by its versions and by what those bytes happen to be.
_NO_TLS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
    "HTTPS_PROXY_REQUEST",
)
_NO_VERSION = ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE", "INSUFFICIENT_SECURITY")
_CERTIFICATE_WANTED = ("CERTIFICATE_REQUIRED", "ALERT_NO_CERTIFICATE")
_CERTIFICATE_REFUSED = (
    "ALERT_BAD_CERTIFICATE",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_UNKNOWN_CA",
    "ALERT_ACCESS_DENIED",
)
_OWN_CLIENT = "pass http_client=httpx.AsyncClient(verify=...) with an ssl.SSLContext that has loaded it"
_ADVICE = {
    # The numbers of OpenSSL, X509_V_ERR_...
    9: "it is not valid yet: look at the clock of this machine",
    10: "it has expired: whoever runs that server has to renew it (or the clock of this machine is wrong)",
    23: "it was revoked: whoever runs that server has to renew it",
    62: "it is for another host: write the name that it names in base_url",
    64: "it is for another address: write the name that it names in base_url",
}
_PRIVATE = "for a private authority: export SSL_CERT_FILE=/path/to/ca.pem"


def error_of_tls(error: ssl.SSLError, host: str, proxy: Proxy | None) -> ProviderError | None:
    """None where it may clear. `host` may say by way of which proxy."""
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = _ADVICE.get(error.verify_code, _PRIVATE)
        said = error.verify_message.rstrip(".")
        return NotFoundError(f"the certificate of {host} cannot be trusted: {said}; {advice}")
    reason = error.reason or ""

    def is_one_of(reasons: tuple[str, ...]) -> bool:
        return any(each in reason for each in reasons)

    if is_one_of(_NO_TLS):
        if proxy and proxy.url.startswith("https:"):
            return NotFoundError(f"{host} did not answer in TLS: {proxy} may speak plain http; write http:// in it")
        return NotFoundError(f"{host} does not answer in TLS: this port speaks plain http, or something else")
    if is_one_of(_NO_VERSION):
        return NotFoundError(f"{host} and this Python have no version of TLS in common ({_reason_in_words(reason)})")
    if is_one_of(_CERTIFICATE_WANTED):
        return wants_certificate(host)
    if is_one_of(_CERTIFICATE_REFUSED):
        return AuthenticationError(
            f"{host} refused the client certificate ({_reason_in_words(reason)}), or wants one: {_OWN_CLIENT}"
        )
    if "HANDSHAKE_FAILURE" in reason:
        return NotFoundError(
            f"{host} refused the handshake of TLS: no cipher in common, or it wants a client certificate: {_OWN_CLIENT}"
        )
    if "UNRECOGNIZED_NAME" in reason:
        return NotFoundError(f"the server at {host} does not know that name; look at base_url")
    return None


def wants_certificate(host: str) -> AuthenticationError:
    return AuthenticationError(f"{host} wants a client certificate: {_OWN_CLIENT}")


def speaks_tls_error(host: str) -> NotFoundError:
    return NotFoundError(f"{host} speaks TLS, and was asked in plain http; write  base_url=https://{host}/...")


def _reason_in_words(reason: str) -> str:
    return reason.lower().replace("_", " ")
