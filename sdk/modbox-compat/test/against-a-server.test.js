/**
 * The examples of the documents against a real server: MODBOX_BASE_URL, MODBOX_API_KEY, SANDBOX_API_KEY (the operator's key for all
 * sandboxes) and TEAMMATE (the address of somebody else who has a key there) say where and as whom.
 */

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';

import { ModboxClient, ModboxError } from '../src/index.js';

const { MODBOX_API_KEY: token, MODBOX_BASE_URL: baseUrl, SANDBOX_API_KEY: sandboxKey, TEAMMATE: teammate } = process.env;
const client = new ModboxClient({ token, baseUrl });

/** As the documents do it: the address is the sandbox's own, the key is the environment's. */
async function exec(sandboxUrl, command) {
    const answer = await fetch(`${sandboxUrl}/modbox/api/exec`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${sandboxKey}` },
        body: JSON.stringify({ command }),
    });
    assert.equal(answer.status, 200);
    return answer.json();
}

async function started(options) {
    const taskId = `js-${randomUUID()}`;
    const { success, sandboxId } = await client.provisionSandbox({ taskId, ...options });
    assert.ok(success && sandboxId);
    const waited = await client.waitForSandbox({ taskId, timeout: 60 });
    assert.deepEqual([waited.ready, waited.status, waited.reason], [true, 'running', null]);
    const { sandboxUrl, id, name } = await client.getSandbox(taskId);
    assert.deepEqual([id, name], [sandboxId, taskId]);
    return { taskId, sandboxUrl };
}

test('create, wait, exec, destroy', async () => {
    const { taskId, sandboxUrl } = await started({});
    const result = await exec(sandboxUrl, 'python3 -c "print(\'Hello, world!\')"');
    assert.deepEqual([result.exitCode, result.stdout, result.stderr], [0, 'Hello, world!\n', '']);
    assert.equal(typeof result.durationMs, 'number');
    assert.deepEqual(await client.destroySandbox({ taskId }), { success: true, error: null });
    assert.equal((await client.getSandbox(taskId)).status, 'destroyed');
});

test('a session is used again until its time is over', async () => {
    const { taskId, sandboxUrl } = await started({ ttlSeconds: 3600 });
    await exec(sandboxUrl, 'echo 41 > counter');
    assert.equal((await exec(sandboxUrl, 'echo $(($(cat counter) + 1))')).stdout, '42\n');
    const { createdAt, expiresAt } = await client.getSandbox(taskId);
    assert.equal(Date.parse(expiresAt) - Date.parse(createdAt), 3_600_000);
    await client.destroySandbox({ taskId });
});

test('several languages in one sandbox', async () => {
    const { taskId, sandboxUrl } = await started({ envVars: { GREETING: 'hi', aKeyOfMine: 'kept' } });
    for (const [command, stdout] of [
        ['python -c "print(sum(range(10)))"', '45\n'],
        ['node -e "console.log([1, 2, 3].map((x) => x * 2).join())"', '2,4,6\n'],
        ['bash -c "echo $GREETING $aKeyOfMine"', 'hi kept\n'],
    ]) {
        const result = await exec(sandboxUrl, command);
        assert.deepEqual([result.exitCode, result.stdout], [0, stdout], `${command}: ${result.stderr}`);
    }
    assert.notEqual((await exec(sandboxUrl, 'python3 -c "1/0"')).exitCode, 0);
    await client.destroySandbox({ taskId });
});

test('teams have workspaces', async () => {
    const team = await client.createWorkspace({ name: 'team' });
    const member = await client.addWorkspaceMember(team.id, { email: teammate, role: 'member' });
    assert.deepEqual([member.role, member.email], ['member', teammate]);
    const { workspaces } = await client.listWorkspaces();
    assert.ok(workspaces.some(({ id, myRole }) => id === team.id && myRole === 'owner'));
    assert.equal((await client.getWorkspace(team.id)).members.length, 2);
    const within = new ModboxClient({ token, baseUrl, workspaceId: team.id });
    await within.provisionSandbox({ taskId: 'of-the-team' });
    assert.equal((await within.listSandboxes()).total, 1);
    await assert.rejects(client.getSandbox('of-the-team'), { name: 'ModboxError', status: 404, code: 'sandbox_not_found' });
    await within.destroySandbox({ taskId: 'of-the-team' });
    await client.deleteWorkspace(team.id);
});

test('an image is chosen', async () => {
    const { images } = await client.listSandboxImages({ enabledOnly: true });
    const { id, memoryMb } = images.find(({ name }) => name === 'modbox/ubuntu');
    assert.equal(memoryMb, 1024);
    const { taskId, sandboxUrl } = await started({ imageId: id });
    assert.equal((await exec(sandboxUrl, 'uname')).stdout, 'Linux\n');
    assert.equal((await client.getSandbox(taskId)).image, 'modbox/ubuntu:latest');
    const { logs } = await client.getSandboxMonitoring(taskId, { include: 'logs' });
    assert.deepEqual(logs.map(({ log }) => log), ['Linux']);
    await client.destroySandbox({ taskId });
});

test('what goes wrong is an error with a code', async () => {
    await assert.rejects(client.provisionSandbox({ ttlSeconds: 1 }), (error) => {
        assert.ok(error instanceof ModboxError);
        assert.deepEqual([error.status, error.code, error.details[0].field], [422, 'validation_error', 'body.ttl_seconds']);
        return true;
    });
    await assert.rejects(new ModboxClient({ token: 'mbx_wrong', baseUrl }).listSandboxes(), { status: 401, code: 'invalid_token' });
    assert.throws(() => new ModboxClient({ token: '', baseUrl }), TypeError);
});
