"""Aliases over HTTP: moved at once, split by weight, taken back, and served by every way to name an adapter."""

from collections import Counter
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.registry.alias_targets import pick_version, sticky_pick, targets_from_json, targets_to_json
from tests.server.support.fake_engine import BASE

ALIAS = "/v1/adapters/acme/math/aliases/prod"
CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
async def stored(client: httpx.AsyncClient) -> None:
    for value in (1.0, 2.0, 4.0):
        await client.post("/adapters", json={"name": "acme/math", "vector": [value] * 13})


async def put(client: httpx.AsyncClient, path: str = ALIAS, **body: Any) -> Any:
    response = await client.put(path, json=body)
    assert response.status_code in (200, 201), response.text
    return response.json()


async def answered_by(client: httpx.AsyncClient, **body: Any) -> str:
    response = await client.post(CHAT, json={"messages": [], **body})
    assert response.status_code == 200, response.text
    return response.headers["x-tinylora-adapter"]


def assert_error(response: httpx.Response, status: int, param: str, code: str) -> str:
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code), error
    return str(error["message"])


async def test_alias_serves_its_version_by_adapter_by_model_and_in_mixtures(client: httpx.AsyncClient) -> None:
    made = await client.put(ALIAS, json={"version": 1})
    assert made.status_code == 201
    assert made.json() == {
        "id": "acme/math@prod", "object": "adapter.alias", "adapter": "acme/math", "alias": "prod",
        "versions": {"1": 1.0}, "moved_at": pytest.approx(1_800_000_000, rel=0.2),
        "etag": made.headers["etag"],
    }  # fmt: skip
    assert await answered_by(client, adapter="acme/math@prod") == "acme/math@1"
    assert await answered_by(client, model="acme/math@prod") == "acme/math@1"
    assert await answered_by(client, model="acme/math@prod", adapter="acme/math@1") == "acme/math@1"
    parts = [{"adapter": "acme/math@prod", "weight": 1}, {"adapter": "acme/math@3", "weight": 0.5}]
    mixture = await client.post(CHAT, json={"messages": [], "adapter": parts})
    assert mixture.json()["choices"][0]["message"]["content"].endswith(f": {[3.0] * 13}")
    assert (await client.get("/v1/adapters/acme/math@prod")).json()["id"] == "acme/math@1"
    assert (await client.get("/v1/models/acme/math@prod")).json()["root"] == "acme/math@1"
    vector = await client.get("/v1/adapters/acme/math@prod/vector")
    assert vector.headers["x-tinylora-adapter"] == "acme/math@1"
    await put(client, version=3)
    assert await answered_by(client, adapter="acme/math@prod") == "acme/math@3"
    assert await answered_by(client, adapter="acme/math") == "acme/math@3"


async def test_move_is_rolled_back_and_every_move_is_kept(client: httpx.AsyncClient) -> None:
    await put(client, version=1)
    await put(client, versions={"2": 1, "3": 3})
    await put(client, versions={"3": 3.0, "2": 1.0})  # moves nothing
    back = await client.post(f"{ALIAS}/rollback")
    assert (back.status_code, back.json()["versions"]) == (200, {"1": 1.0})
    assert await answered_by(client, adapter="acme/math@prod") == "acme/math@1"
    assert (await client.post(f"{ALIAS}/rollback")).json()["versions"] == {"2": 1.0, "3": 3.0}
    removed = await client.delete(ALIAS)
    assert removed.json() == {"id": "acme/math@prod", "object": "adapter.alias.deleted", "deleted": True}
    assert_error(await client.get(ALIAS), 404, "alias", "alias_not_found")
    assert_error(await client.delete(ALIAS), 404, "alias", "alias_not_found")
    missing = await client.post(CHAT, json={"messages": [], "adapter": "acme/math@prod"})
    assert_error(missing, 404, "adapter", "adapter_not_found")
    assert (await client.post(f"{ALIAS}/rollback")).json()["versions"] == {"2": 1.0, "3": 3.0}
    pages, after = [], None
    while True:
        page = (await client.get(f"{ALIAS}/history", params={"limit": 4, **({"after": after} if after else {})})).json()
        pages.append([(move["id"], move["versions"]) for move in page["data"]])
        after = page["last_id"]
        if not page["has_more"]:
            break
    split = {"2": 1.0, "3": 3.0}
    assert pages == [
        [("6", split), ("5", None), ("4", split), ("3", {"1": 1.0})],
        [("2", split), ("1", {"1": 1.0})],
    ]


async def test_aliases_are_listed_by_name(client: httpx.AsyncClient) -> None:
    for alias in ("prod", "Canary.2", "next"):
        await put(client, f"/adapters/acme%2Fmath/aliases/{alias}", version=2)
    listing = (await client.get("/adapters/acme/math/aliases")).json()
    assert [alias["id"] for alias in listing["data"]] == ["acme/math@Canary.2", "acme/math@next", "acme/math@prod"]
    assert listing["data"][2] == (await client.get(ALIAS)).json()


async def test_user_stays_with_one_version_of_a_split_and_others_are_spread_by_weight(
    client: httpx.AsyncClient,
) -> None:
    await put(client, versions={"1": 75, "3": 25})
    users = [f"user-{number}" for number in range(200)]
    chosen = {user: await answered_by(client, adapter="acme/math@prod", user=user) for user in users}
    shares = Counter(chosen.values())
    # Binomial: 50 expected, standard deviation 6.1.
    assert shares.keys() == {"acme/math@1", "acme/math@3"} and 25 <= shares["acme/math@3"] <= 75
    for user in users[:20]:
        for field in ("user", "safety_identifier", "prompt_cache_key"):
            assert await answered_by(client, model="acme/math@prod", **{field: user}) == chosen[user]
    unnamed = Counter([await answered_by(client, adapter="acme/math@prod") for _ in range(200)])
    assert unnamed.keys() == {"acme/math@1", "acme/math@3"} and 25 <= unnamed["acme/math@3"] <= 75
    # More weight for one version takes nobody away from it.
    await put(client, versions={"1": 50, "3": 50})
    moved = {user: await answered_by(client, adapter="acme/math@prod", user=user) for user in users}
    assert all(moved[user] == "acme/math@3" for user in users if chosen[user] == "acme/math@3")
    # By name alone it is the version with most weight.
    await put(client, versions={"1": 1, "3": 2})
    assert (await client.get("/adapters/acme/math@prod")).json()["version"] == 3


async def test_model_and_adapter_naming_the_same_split_alias_do_not_conflict(client: httpx.AsyncClient) -> None:
    await put(client, versions={"1": 1, "2": 1, "3": 1})
    for _ in range(10):
        await answered_by(client, adapter="acme/math@prod", model="acme/math@prod")


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "code"),
    [
        (ALIAS, {"version": 4}, 400, "version", "version_not_found"),
        (ALIAS, {"versions": {"1": 1, "9": 1}}, 400, "versions.9", "version_not_found"),
        (ALIAS, {"version": 0}, 400, "version", "invalid_value"),
        (ALIAS, {"version": "1"}, 400, "version", "invalid_value"),
        (ALIAS, {"version": True}, 400, "version", "invalid_value"),
        (ALIAS, {"version": 2**40}, 400, "version", "invalid_value"),
        (ALIAS, {}, 400, "version", "missing_required_parameter"),
        (ALIAS, {"version": 1, "versions": {"1": 1}}, 400, "version", "invalid_value"),
        (ALIAS, {"versions": {}}, 400, "versions", "invalid_value"),
        (ALIAS, {"versions": {"1": 0}}, 400, None, "invalid_value"),
        (ALIAS, {"versions": {"1": -1}}, 400, None, "invalid_value"),
        (ALIAS, {"versions": {"1": "5"}}, 400, None, "invalid_value"),
        (ALIAS, {"versions": {"x": 1}}, 400, None, "invalid_value"),
        (ALIAS, {"versions": {str(n): 1 for n in range(1, 18)}}, 400, "versions", "invalid_value"),
        (ALIAS, {"weight": 1}, 400, "weight", "unknown_parameter"),
        (ALIAS, [1], 400, None, "invalid_value"),
        ("/adapters/acme/math/aliases/1st", {"version": 1}, 400, "alias", "invalid_alias"),
        ("/adapters/acme/math/aliases/a%20b", {"version": 1}, 400, "alias", "invalid_alias"),
        (f"/adapters/acme/math/aliases/{'a' * 65}", {"version": 1}, 400, "alias", "invalid_alias"),
        ("/adapters/acme/math@1/aliases/prod", {"version": 1}, 400, "name", "invalid_name"),
        ("/adapters/none/aliases/prod", {"version": 1}, 404, "name", "adapter_not_found"),
    ],
)
async def test_alias_that_cannot_be_is_refused_by_field(
    client: httpx.AsyncClient, path: str, body: Any, status: int, param: str | None, code: str
) -> None:
    response = await client.put(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code), error
    assert param is None or error["param"] == param
    assert (await client.get("/adapters/acme/math/aliases")).json()["data"] == []


@pytest.mark.parametrize("weight", ["1e999", "NaN", "Infinity", "-Infinity"])
async def test_weight_that_is_not_finite_is_refused(client: httpx.AsyncClient, weight: str) -> None:
    content = f'{{"versions": {{"1": {weight}}}}}'
    response = await client.put(ALIAS, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text


async def test_version_that_an_alias_stands_for_is_not_deleted(client: httpx.AsyncClient) -> None:
    await put(client, version=2)
    await put(client, "/adapters/acme/math/aliases/next", versions={"2": 1, "3": 1})
    for query in ("", "?purge=true"):
        message = assert_error(await client.delete(f"/adapters/acme/math@2{query}"), 400, "name", "version_in_use")
        assert "aliases next, prod" in message
    await put(client, version=3)
    await client.delete("/adapters/acme/math/aliases/next")
    assert (await client.delete("/adapters/acme/math@2")).status_code == 200
    assert_error(await client.put(ALIAS, json={"version": 2}), 400, "version", "version_not_found")
    assert_error(await client.delete("/adapters/acme/math@prod"), 400, "name", "invalid_name")


async def test_rollback_to_nothing_or_to_a_deleted_version_is_refused(client: httpx.AsyncClient) -> None:
    assert_error(await client.post(f"{ALIAS}/rollback"), 404, "alias", "alias_not_found")
    await put(client, version=1)
    assert_error(await client.post(f"{ALIAS}/rollback"), 400, "alias", "nothing_to_roll_back")
    await put(client, version=2)
    await client.delete("/adapters/acme/math@1")
    message = assert_error(await client.post(f"{ALIAS}/rollback"), 400, "version", "version_not_found")
    assert "version 1 of acme/math" in message


async def test_an_adapter_has_a_bounded_number_of_aliases(client: httpx.AsyncClient) -> None:
    for number in range(64):
        await put(client, f"/adapters/acme/math/aliases/a{number}", version=1)
    refused = await client.put("/adapters/acme/math/aliases/more", json={"version": 1})
    assert_error(refused, 400, "alias", "alias_limit_reached")
    # Nor may one that was removed come back by the way of its history.
    await client.delete("/adapters/acme/math/aliases/a0")
    await put(client, "/adapters/acme/math/aliases/more", version=1)
    back = await client.post("/adapters/acme/math/aliases/a0/rollback")
    assert_error(back, 400, "alias", "alias_limit_reached")
    await client.delete("/adapters/acme/math/aliases/more")
    assert (await client.post("/adapters/acme/math/aliases/a0/rollback")).is_success
    await put(client, "/adapters/acme/math/aliases/a0", version=2)


def test_openais_client_is_answered_by_the_version_behind_the_alias(
    openai_client: openai.OpenAI, base_url: str
) -> None:
    for _ in range(3):
        httpx.post(f"{base_url}/adapters", json={"name": "acme/math", "vector": [1.0] * 13})
    httpx.put(f"{base_url}{ALIAS}", json={"version": 2})
    answer = openai_client.chat.completions.create(model="acme/math@prod", messages=[{"role": "user", "content": "hi"}])
    assert answer.model == "acme/math@2"
    with pytest.raises(openai.NotFoundError):
        openai_client.chat.completions.create(
            model=BASE, messages=[{"role": "user", "content": "hi"}], extra_body={"adapter": "acme/math@none"}
        )


weights = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.integers(1, 9), weights, min_size=1, max_size=4), st.floats(0, 1, exclude_max=True))
def test_pick_is_always_one_of_the_versions(targets: dict[int, float], pick: float) -> None:
    assert pick_version(targets, pick) in targets
    assert targets[pick_version(targets, None)] == max(targets.values())
    assert targets_from_json(targets_to_json(targets)) == targets


@pytest.mark.parametrize(
    ("targets", "thousandths"),
    [
        ({3: 95, 4: 5}, {3: 950, 4: 50}),
        ({1: 50, 2: 30, 3: 20}, {1: 500, 2: 300, 3: 200}),
        ({3: 50, 2: 30, 1: 20}, {1: 200, 2: 300, 3: 500}),
        ({1: 1, 2: 1, 3: 8}, {1: 100, 2: 100, 3: 800}),
        ({7: 0.1, 2: 0.4, 9: 0.2, 4: 0.3}, {2: 400, 4: 300, 7: 100, 9: 200}),
        ({1: 1e308, 2: 1e308, 3: 2e307}, {1: 455, 2: 454, 3: 91}),  # 5/11, 5/11, 1/11
        ({1: 5e-324, 2: 5e-324, 5: 1e-323}, {1: 250, 2: 250, 5: 500}),
    ],
)
def test_picks_divide_the_line_by_weight(targets: dict[int, float], thousandths: dict[int, int]) -> None:
    picks = [pick_version(targets, (number + 0.5) / 1000) for number in range(1000)]
    assert Counter(picks) == thousandths
    assert picks == sorted(picks)  # each version has one piece of the line


@given(st.dictionaries(st.integers(1, 9), st.integers(1, 50), min_size=1, max_size=6))
def test_every_version_gets_its_exact_share(targets: dict[int, int]) -> None:
    total = sum(targets.values())
    picks = Counter(pick_version({**targets}, (number + 0.5) / total) for number in range(total))
    assert picks == targets


def test_users_are_spread_over_three_versions_by_weight() -> None:
    """Chi-square over 20,000 users, who are always the same: 13.8 is exceeded once in a thousand by chance."""
    shares = {1: 0.5, 2: 0.3, 3: 0.2}
    picks = Counter(pick_version(shares, sticky_pick("acme", "math", "prod", f"user-{n}")) for n in range(20_000))
    chi_square = sum((picks[version] - 20_000 * share) ** 2 / (20_000 * share) for version, share in shares.items())
    assert chi_square < 13.8


async def test_users_of_an_alias_over_three_versions_get_each_by_its_weight(client: httpx.AsyncClient) -> None:
    weights = {"1": 60, "2": 30, "3": 10}
    await put(client, versions=weights)
    users = [f"user-{number}" for number in range(400)]
    picks = Counter([await answered_by(client, adapter="acme/math@prod", user=user) for user in users])
    expected = {f"acme/math@{version}": 400 * weight / 100 for version, weight in weights.items()}
    assert picks.keys() == expected.keys()
    assert sum((picks[name] - share) ** 2 / share for name, share in expected.items()) < 13.8


@given(st.lists(st.text(), max_size=4))
def test_sticky_pick_is_in_range_and_depends_on_every_part(parts: list[str]) -> None:
    assert 0 <= sticky_pick(*parts) < 1
    assert sticky_pick(*parts) == sticky_pick(*parts) != sticky_pick(*parts, "more")
