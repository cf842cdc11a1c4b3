"""Every call of modbox-sdk 0.0.10, the first form of the published client, against a real server."""

import asyncio
import os
import uuid

import httpx
from modbox import AsyncModboxApi, ModboxApi
from modbox.core.api_error import ApiError
from modbox.errors import UnprocessableEntityError

URL, TOKEN, MATE = os.environ["URL"], os.environ["TOKEN"], os.environ["TEAMMATE"]
api = ModboxApi(token=TOKEN, base_url=URL)


def fails(status, code, call, **arguments):
    try:
        call(**arguments)
    except ApiError as error:
        assert error.status_code == status, error
        body = error.body if isinstance(error.body, dict) else error.body.dict()
        found = body.get("error", {})
        assert found.get("code") == code, error.body
        return error
    raise AssertionError("it went well")


assert api.health_check()["status"] == "ok"

made = api.provision_sandbox(task_id="old-1", env_vars={"A": "b", "GONE": None}, ttl_seconds=600)
assert made.success and made.status == "provisioning" and made.sandbox_url is None and made.error is None, made
uuid.UUID(made.sandbox_id)
waited = api.wait_for_sandbox(task_id="old-1", timeout=60, poll_interval=1)
assert waited.ready and waited.elapsed_seconds >= 0, waited
for name in ["old-1", made.sandbox_id]:
    detail = api.get_sandbox(name)
    assert (detail.id, detail.name, detail.status) == (made.sandbox_id, "old-1", "running"), detail
    assert detail.destroyed_at is None and detail.created_by and detail.image == "modbox/code-exec:latest"
    assert detail.sandbox_url.startswith("http") and not detail.sandbox_url.endswith("/")
status = api.get_sandbox_status("old-1")
assert status.ready and status.error is None and status.name, status
listed = api.list_sandboxes(status="running", realm="whatever")
assert listed.total == 1 and listed.sandboxes[0].name == "old-1", listed
assert api.list_realm_sandboxes("any", status="running").total >= 1

token = dict(made)["endpoint"]["access_token"]
answer = httpx.post(
    f"{detail.sandbox_url}/modbox/api/exec",
    headers={"Authorization": f"Bearer {token}"},
    json={"command": "python -c \"import os; print(os.environ['A'], os.environ.get('GONE'))\""},
    timeout=60,
)
result = answer.json()
assert sorted(result) == ["durationMs", "exitCode", "stderr", "stdout"], result
assert (result["exitCode"], result["stdout"]) == (0, "b None\n"), result

assert api.destroy_sandbox(task_id="old-1").success
assert api.destroy_sandbox(task_id=made.sandbox_id).success, "twice is fine"
assert api.get_sandbox("old-1").status == "destroyed"
assert not api.get_sandbox_status("old-1").ready
assert api.list_sandboxes(status="destroyed").sandboxes[0].destroyed_at is not None
fails(404, "sandbox_not_found", api.destroy_sandbox, task_id="nobody")
try:
    api.provision_sandbox(task_id="bad", ttl_seconds=5)
    raise AssertionError("it went well")
except UnprocessableEntityError as error:
    assert error.status_code == 422, error

images = api.list_sandbox_images(enabled_only=False)
assert {image.image for image in images.images if image.is_default} == {"modbox/code-exec", "modbox/chromium", "modbox/ubuntu"}
registry = api.create_registry(name="hub", server="registry.example.org", username="u", password="secret", email="a@b.example")
assert not hasattr(registry, "password")
assert api.list_registries().total == 1 and api.get_registry(registry.id).name == "hub"
assert api.update_registry(registry.id, enabled=False, email=None).enabled is False
image = api.create_sandbox_image(name="mine", image="modbox/ubuntu", memory_mb=512, ttl_seconds=120, registry_id=registry.id)
assert image.registry_name == "hub" and image.tag == "latest" and image.workspace_id, image
assert api.get_sandbox_image(image.id) == image
assert api.update_sandbox_image(image.id, description="d").memory_mb == 512
of_it = api.provision_sandbox(task_id="old-2", image_id=image.id)
expires = api.get_sandbox("old-2")
assert (dict(expires)["expires_at"] is not None) and api.wait_for_sandbox(task_id="old-2").ready
api.update_sandbox_image(image.id, enabled=False)
fails(400, "image_disabled", api.provision_sandbox, task_id="old-3", image_id=image.id)
fails(400, "sandbox_name_conflict", api.provision_sandbox, task_id="old-2")
api.delete_sandbox_image(image.id)
api.delete_registry(registry.id)
fails(404, "image_not_found", api.get_sandbox_image, image_id=image.id)
assert api.get_sandbox("old-2").status == "running", "it goes on without its image"
api.destroy_sandbox(task_id="old-2")

workspaces = api.workspaces
home = workspaces.list_workspaces().workspaces[0]
assert home.my_role == "owner", home
team = workspaces.create_workspace(name="team", description="d")
assert workspaces.get_workspace(team.id).members[0].role == "owner" and team.realm
assert workspaces.update_workspace(team.id, name="crew").name == "crew"
member = workspaces.add_workspace_member(team.id, email=MATE, role="viewer")
assert [m.role for m in workspaces.list_workspace_members(team.id)] == ["owner", "viewer"]
assert workspaces.update_workspace_member_role(team.id, member.user_id, role="admin").role == "admin"
workspaces.remove_workspace_member(team.id, member.user_id)
api.provision_sandbox(task_id="old-1", workspace_id=team.id)
assert api.list_sandboxes(workspace_id=team.id).total == 1
workspaces.delete_workspace(team.id)
assert workspaces.list_workspaces().total == 1
wrong = ModboxApi(token="mbx_wrong", base_url=f"{URL}/")
fails(401, "invalid_token", wrong.list_sandboxes)


async def asynchronously():
    other = AsyncModboxApi(token=TOKEN, base_url=URL)
    await other.provision_sandbox(task_id="old-async")
    assert (await other.wait_for_sandbox(task_id="old-async")).ready
    assert (await other.get_sandbox("old-async")).status == "running"
    assert (await other.destroy_sandbox(task_id="old-async")).success


asyncio.run(asynchronously())
print("all calls of 0.0.10 went well")
