"""Every call of modbox-sdk 0.0.21, the newest form of the published client, against a real server."""

import asyncio
import datetime as dt
import os

import httpx
from modbox import AsyncModboxApi, ModboxApi
from modbox.core.api_error import ApiError
from modbox.errors import (
    BadRequestError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnauthorizedError,
    UnprocessableEntityError,
)

URL, TOKEN, MATE, MATES_TOKEN = (os.environ[name] for name in ["URL", "TOKEN", "TEAMMATE", "TEAMMATES_TOKEN"])
api = ModboxApi(token=TOKEN, base_url=URL)


def fails(kind, code, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except ApiError as error:
        assert isinstance(error, kind), repr(error)
        body = error.body if isinstance(error.body, dict) else error.body.dict()
        assert body["error"]["code"] == code, body
        assert body["error"]["message"] and body["error"]["request_id"], body
        return body
    raise AssertionError("it went well")


assert api.system.health_check()["status"] == "ok"
boxes = api.sandboxes

first = boxes.create_sandbox(idempotency_key="key-1", client_reference="ref", fast_start=True, env_vars={"SANDBOX_API_KEY": "mine"})
assert first.success and first.status == "provisioning" and first.cache.requested is False, first
assert first.endpoint.api_url == f"{first.endpoint.base_url}/modbox/api" and first.endpoint.access_token.startswith("mbxs_")
assert first.capabilities["exec"] == f"{first.endpoint.api_url}/exec"
again = boxes.create_sandbox(idempotency_key="key-1", client_reference="ref", fast_start=True, env_vars={"SANDBOX_API_KEY": "mine"})
assert again.sandbox_id == first.sandbox_id and boxes.list_sandboxes().total == 1, "not made again"
waited = boxes.wait_for_sandbox_canonical(first.sandbox_id, timeout=60)
assert (waited.ready, waited.status, waited.reason) == (True, "running", None), waited
detail = boxes.get_sandbox_canonical(first.sandbox_id)
assert detail.name.startswith("sbx-") and detail.sandbox_url == first.endpoint.base_url and detail.expires_at is None, detail
assert boxes.get_sandbox(detail.name) == detail and detail.capabilities == first.capabilities
assert boxes.get_sandbox_status_canonical(first.sandbox_id).ready and boxes.get_sandbox_status(detail.name).ready

for key in ["mine", first.endpoint.access_token, TOKEN]:
    answer = httpx.post(
        first.capabilities["exec"],
        headers={"Authorization": f"Bearer {key}"},
        json={"command": "echo out; echo err >&2; exit 3", "unknown": 1},
        timeout=60,
    )
    result = answer.json()
    assert (answer.status_code, result["exitCode"], result["stdout"], result["stderr"]) == (200, 3, "out\n", "err\n"), result
for headers in [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {MATES_TOKEN}"}]:
    answer = httpx.post(first.capabilities["exec"], headers=headers, json={"command": "true"})
    # Somebody else's token is good, and their sandbox is not here.
    assert answer.status_code == (404 if MATES_TOKEN in str(headers) else 401), answer.text
    assert answer.json()["error"]["code"] in ["unauthenticated", "invalid_token", "sandbox_not_found"]

seen = api.observability.get_sandbox_monitoring(
    first.sandbox_id, since=dt.datetime.now(dt.timezone.utc) - dt.timedelta(minutes=5), limit=100
)
assert [(line.stream, line.log) for line in seen.logs][:2] == [("stdout", "out"), ("stderr", "err")], seen.logs
assert len(seen.logs) == 6 and seen.metrics and seen.metrics[-1].memory_usage > 0, seen
assert seen.sandbox_name == detail.name
part = api.observability.get_sandbox_monitoring(first.sandbox_id, stream="stderr", include="logs", limit=1)
assert [line.log for line in part.logs] == ["err"] and part.metrics == []
fails(BadRequestError, "validation_error", api.observability.get_sandbox_monitoring, first.sandbox_id, include="all")

assert boxes.delete_sandbox(first.sandbox_id).success and boxes.delete_sandbox(first.sandbox_id).success
assert boxes.get_sandbox(first.sandbox_id).status == "destroyed"
assert len(api.observability.get_sandbox_monitoring(first.sandbox_id).logs) == 6, "also afterwards"
gone = boxes.wait_for_sandbox_canonical(first.sandbox_id)
assert (gone.ready, gone.reason) == (False, "destroyed"), gone

second = boxes.provision_sandbox(task_id="a/b", image="modbox/ubuntu", ttl_seconds=None)
assert boxes.wait_for_sandbox(task_id="a/b", timeout=60, poll_interval=60).ready, "at once, whatever the interval is"
assert boxes.get_sandbox("a/b").id == second.sandbox_id and boxes.get_sandbox_status("a/b").ready
assert boxes.list_sandboxes(status="running").total == 1
assert boxes.list_realm_sandboxes("any", status="running").total >= 1
fails(BadRequestError, "sandbox_name_conflict", boxes.provision_sandbox, task_id="a/b")
assert boxes.destroy_sandbox(task_id="a/b").success
boxes.provision_sandbox(task_id="a/b")
assert boxes.get_sandbox("a/b").id != second.sandbox_id, "the name is free again"
boxes.destroy_sandbox(task_id="a/b")

body = fails(UnprocessableEntityError, "validation_error", boxes.provision_sandbox, task_id="", ttl_seconds=1)
assert [problem["field"] for problem in body["error"]["details"]] == ["body.task_id", "body.ttl_seconds"], body
fails(NotFoundError, "sandbox_not_found", boxes.get_sandbox, "nobody")
fails(NotFoundError, "image_not_found", boxes.provision_sandbox, image="modbox/chromium")

images = api.images
assert images.list_sandbox_images(enabled_only=True).total == 2
mine = images.create_sandbox_image(name="mine", image="modbox/code-exec", tag="latest", is_default=True, memory_mb=256, ttl_seconds=60)
assert images.get_sandbox_image(mine.id).is_default and images.update_sandbox_image(mine.id, name="ours").name == "ours"
by_default = boxes.create_sandbox()
assert (boxes.get_sandbox(by_default.sandbox_id).expires_at - boxes.get_sandbox(by_default.sandbox_id).created_at).seconds == 60
assert images.get_sandbox_image_cache(mine.id).requested is False
fails(ConflictError, "image_cache_in_use", images.clear_sandbox_image_cache, mine.id, request_options={"max_retries": 0})
boxes.delete_sandbox(by_default.sandbox_id)
assert images.clear_sandbox_image_cache(mine.id).success
images.delete_sandbox_image(mine.id)
fails(ForbiddenError, "image_immutable", images.update_sandbox_image, images.list_sandbox_images().images[0].id, name="x")

registries = api.registries
hub = registries.create_registry(name="hub", server="s.example", username="u", password="secret")
assert registries.get_registry(hub.id) == hub and registries.list_registries().total == 1
assert registries.update_registry(hub.id, password="other", name="other").name == "other"
registries.delete_registry(hub.id)
fails(NotFoundError, "registry_not_found", registries.get_registry, hub.id)

workspaces = api.workspaces
team = workspaces.create_workspace(name="team")
member = workspaces.add_workspace_member(team.id, email=MATE, role="viewer")
fails(ConflictError, "conflict", workspaces.add_workspace_member, team.id, email=MATE, request_options={"max_retries": 0})
mate = ModboxApi(token=MATES_TOKEN, base_url=URL)
shared = boxes.create_sandbox(task_id="shared", workspace_id=team.id)
assert mate.sandboxes.get_sandbox("shared", workspace_id=team.id).id == shared.sandbox_id
fails(ForbiddenError, "insufficient_role", mate.sandboxes.delete_sandbox, "shared", workspace_id=team.id)
fails(NotFoundError, "sandbox_not_found", mate.sandboxes.get_sandbox, shared.sandbox_id)
assert workspaces.update_workspace_member_role(team.id, member.user_id, role="member").role == "member"
assert mate.sandboxes.wait_for_sandbox(task_id="shared", workspace_id=team.id).ready
answer = httpx.post(shared.capabilities["exec"], headers={"Authorization": f"Bearer {MATES_TOKEN}"}, json={"command": "echo hi"}, timeout=60)
assert answer.json()["stdout"] == "hi\n", answer.text
assert mate.workspaces.list_workspaces().total == 2
workspaces.remove_workspace_member(team.id, member.user_id)
fails(ForbiddenError, "workspace_forbidden", mate.sandboxes.list_sandboxes, workspace_id=team.id)
assert len(workspaces.list_workspace_members(team.id)) == 1 and workspaces.update_workspace(team.id, description="d").description == "d"
assert workspaces.get_workspace(team.id).id == team.id
workspaces.delete_workspace(team.id)
fails(NotFoundError, "workspace_not_found", workspaces.get_workspace, team.id)
fails(UnauthorizedError, "invalid_token", ModboxApi(token="wrong", base_url=URL).sandboxes.list_sandboxes)


async def asynchronously():
    other = AsyncModboxApi(token=TOKEN, base_url=URL)
    made = await other.sandboxes.create_sandbox(task_id="async")
    assert (await other.sandboxes.wait_for_sandbox(task_id="async")).ready
    assert (await other.sandboxes.get_sandbox(made.sandbox_id)).status == "running"
    assert (await other.images.list_sandbox_images()).total == 3
    assert (await other.sandboxes.destroy_sandbox(task_id="async")).success


asyncio.run(asynchronously())
print("all calls of 0.0.21 went well")
