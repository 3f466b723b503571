"""The Python client for commands: connected as they are told to, its errors as sentences.

openai is imported when a command runs, so that --help answers at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from clients.cli.calls import KEY_HINT, fail, other_server
from clients.cli.environment import AddressError, acting_for, check_address, key_of_environment, making_client

if TYPE_CHECKING:
    from tinylora_client import AsyncTinyLoRA, TinyLoRA

TIMEOUT_S = 600

Client = TypeVar("Client", "TinyLoRA", "AsyncTinyLoRA")


@contextmanager
def connected(url: str, max_retries: int = 2) -> Iterator[TinyLoRA]:
    """A client of the server. Its errors end the command with a sentence."""
    from tinylora_client import TinyLoRA

    with sentences(url), _made(TinyLoRA, url, max_retries) as client:
        yield client


def async_client(url: str, max_retries: int = 2) -> AsyncTinyLoRA:
    """The async client, to be used within `sentences`."""
    from tinylora_client import AsyncTinyLoRA

    return _made(AsyncTinyLoRA, url, max_retries)


def _made(kind: type[Client], url: str, max_retries: int) -> Client:
    import httpx2

    # What is wrong with these is found before, so that it is not taken for a proxy's.
    check_address(url)
    httpx2.URL(url)
    key = key_of_environment()
    with making_client(httpx2.InvalidURL):
        return kind(
            base_url=url, api_key=key, organization=acting_for.get(), timeout=TIMEOUT_S, max_retries=max_retries
        )


@contextmanager
def sentences(url: str) -> Iterator[None]:
    """Errors of the openai package, within, end the command with a sentence; the server's are in its own words."""
    import httpx2
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        fail(words_of(error))
    except (openai.APIConnectionError, httpx2.InvalidURL, AddressError) as error:
        fail(f"no answer of a TinyLoRA server from {url}: {error.__cause__ or error}")
    except UnicodeError as error:
        fail(f"this cannot be sent, for it is not UTF-8: {error}")
    except openai.APIResponseValidationError as error:
        fail(other_server(error.request.url, error.status_code))
    except (openai.OpenAIError, ValueError) as error:
        # ValueError: what the client refuses to send, such as an empty id.
        fail(str(error))


def words_of(error: Any) -> str:
    """What the server says of an openai.APIStatusError."""
    body = error.body if isinstance(error.body, dict) else {}
    if "message" not in body:
        return other_server(error.request.url, error.status_code)
    return f"{body['message']}{KEY_HINT if error.status_code == 401 else ''}"
