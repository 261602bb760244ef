"""OAuth 2.1 for one MCP server: the mcp package's flows, over tokens that outlive a process.

    authorization_code    a person allows it once (`warmloop mcp login NAME`); then tokens are
                          refreshed, here or in whichever process comes next
    client_credentials    by a secret or a signed assertion; nobody is asked

In a front door nobody can be asked: where a person is needed, the connection ends with
`LoginNeeded`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthMetadata,
    ProtectedResourceMetadata,
)
from pydantic import AnyUrl, ValidationError

from orchestrator.mcp.failures import ServerLost
from orchestrator.mcp.tokens import TokenFile
from serving.config.mcp import OAuthConfig, substitute


class LoginNeeded(ServerLost):
    """A person has to allow it first."""

    def __init__(self, name: str) -> None:
        super().__init__(f"nobody has logged in; run: warmloop mcp login {name}")


@dataclass(frozen=True, slots=True)
class Person:
    """How a person is asked: shown a URL, and sent back to `redirect_uri`."""

    redirect_uri: str
    show: Callable[[str], Awaitable[None]]
    answer: Callable[[], Awaitable[AuthorizationCodeResult]]


class _Remembering(OAuthClientProvider):
    """Restores what the package forgets between two processes: expiry and metadata, without which
    it would not refresh, or at the wrong place."""

    async def _initialize(self) -> None:
        await super()._initialize()
        store = self.context.storage
        assert isinstance(store, TokenFile)  # noqa: S101 ours alone make these
        kept = store.read()
        self.context.token_expiry_time = kept.get("expires_at")
        try:
            if kept.get("metadata"):
                self.context.oauth_metadata = OAuthMetadata.model_validate(kept["metadata"])
            if kept.get("resource"):
                self.context.protected_resource_metadata = ProtectedResourceMetadata.model_validate(
                    kept["resource"]
                )
        except ValidationError:
            pass  # it is found again
        self.context.auth_server_url = kept.get("auth_server")
        store.beside = self._beside

    def _beside(self) -> dict[str, Any]:
        context = self.context
        metadata, resource = context.oauth_metadata, context.protected_resource_metadata
        return {
            "metadata": metadata and metadata.model_dump(mode="json", exclude_none=True),
            "resource": resource and resource.model_dump(mode="json", exclude_none=True),
            "auth_server": context.auth_server_url,
        }


def provider(
    name: str,
    url: str,
    config: OAuthConfig,
    environment: Mapping[str, str],
    store: TokenFile,
    *,
    person: Person | None = None,
) -> OAuthClientProvider:
    """The auth of that server's HTTP client. Without a `person` raises LoginNeeded where one is
    needed and nobody has logged in."""
    scope = " ".join(config.scopes) or None
    if config.grant == "client_credentials":
        return _without_person(url, config, environment, store, scope)
    if person is None:
        if not store.read().get("tokens"):
            raise LoginNeeded(name)
        person = _nobody(name)
    metadata = OAuthClientMetadata(
        client_name="Warmloop",
        redirect_uris=[AnyUrl(person.redirect_uri)],
        scope=scope,
    )
    return _Remembering(
        url,
        metadata,
        store,
        redirect_handler=person.show,
        callback_handler=person.answer,
        client_metadata_url=config.client_metadata_url,
    )


async def register_given(
    config: OAuthConfig, environment: Mapping[str, str], store: TokenFile, redirect_uri: str
) -> None:
    """Before a login: what an earlier one was registered with goes; a client that the
    configuration names is used instead of a new registration."""
    store.clear()
    if config.client_id is None:
        return
    secret = substitute(config.client_secret, environment) if config.client_secret else None
    by = "client_secret_post" if config.secret_in == "body" else "client_secret_basic"  # noqa: S105
    await store.set_client_info(
        OAuthClientInformationFull(
            client_id=config.client_id,
            client_secret=secret,
            redirect_uris=[AnyUrl(redirect_uri)],
            token_endpoint_auth_method=by if secret else "none",
            issuer=config.issuer,
        )
    )


def _without_person(
    url: str,
    config: OAuthConfig,
    environment: Mapping[str, str],
    store: TokenFile,
    scope: str | None,
) -> OAuthClientProvider:
    client_id = config.client_id or ""
    if config.private_key is not None:
        signing = SignedJWTParameters(
            issuer=client_id,
            subject=client_id,
            signing_key=substitute(config.private_key, environment),
            signing_algorithm=config.private_key_algorithm,
        )
        return PrivateKeyJWTOAuthProvider(
            url,
            store,
            client_id,
            signing.create_assertion_provider(),
            scope=scope,
            issuer=config.issuer,
        )
    return ClientCredentialsOAuthProvider(
        url,
        store,
        client_id,
        substitute(config.client_secret or "", environment),
        "client_secret_post" if config.secret_in == "body" else "client_secret_basic",  # noqa: S105
        scope=scope,
        issuer=config.issuer,
    )


def _nobody(name: str) -> Person:
    async def show(url: str) -> None:
        raise LoginNeeded(name)

    async def answer() -> AuthorizationCodeResult:
        raise LoginNeeded(name)

    return Person("http://127.0.0.1/callback", show, answer)
