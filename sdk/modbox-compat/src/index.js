/**
 * A client in the shape that the documents of Modbox show: camelCase in and out, one class, no dependencies.
 */

const DEFAULT_URL = 'https://api.modbox.run';
/** Beyond what a wait may take on the server, so that the server is the one who says that the time is up. */
const SLACK_MS = 30_000;
const DEFAULT_TIMEOUT_MS = 60_000;

/** An answer that is no success. */
export class ModboxError extends Error {
    /**
     * @param {number} status
     * @param {unknown} body
     */
    constructor(status, body) {
        const error = /** @type {any} */ (body)?.error ?? {};
        super(error.message ?? `the server answered with ${status}`);
        this.name = 'ModboxError';
        this.status = status;
        this.code = error.code ?? null;
        this.requestId = error.request_id ?? null;
        this.retryable = error.retryable ?? null;
        this.details = error.details ?? null;
        this.body = body;
    }
}

export class ModboxClient {
    #token;
    #baseUrl;
    #workspaceId;
    #fetch;

    /** @param {import('./index.d.ts').ModboxClientOptions} options */
    constructor({ token, baseUrl, workspaceId, fetch: ask } = {}) {
        const environment = globalThis.process?.env ?? {};
        this.#token = token ?? environment.MODBOX_API_KEY;
        if (!this.#token) {
            throw new TypeError('a token is needed: new ModboxClient({ token })');
        }
        this.#baseUrl = (baseUrl ?? environment.MODBOX_BASE_URL ?? DEFAULT_URL).replace(/\/+$/, '');
        this.#workspaceId = workspaceId;
        this.#fetch = ask ?? globalThis.fetch;
    }

    healthCheck() {
        return this.#request('GET', '/health');
    }

    provisionSandbox(options = {}) {
        return this.#request('POST', '/sandboxes/provision', { body: options });
    }

    waitForSandbox({ taskId, timeout, pollInterval }) {
        const within = (timeout ?? 120) * 1000 + SLACK_MS;
        return this.#request('POST', '/sandboxes/wait', { body: { taskId, timeout, pollInterval }, within });
    }

    getSandbox(idOrTaskId) {
        return this.#request('GET', `/sandboxes/detail/${encodeURIComponent(idOrTaskId)}`);
    }

    getSandboxStatus(idOrTaskId) {
        return this.#request('GET', `/sandboxes/status/${encodeURIComponent(idOrTaskId)}`);
    }

    listSandboxes({ status } = {}) {
        return this.#request('GET', '/sandboxes', { query: { status } });
    }

    destroySandbox({ taskId }) {
        return this.#request('POST', '/sandboxes/destroy', { body: { taskId } });
    }

    getSandboxMonitoring(idOrTaskId, query = {}) {
        return this.#request('GET', `/sandboxes/${encodeURIComponent(idOrTaskId)}/monitoring`, { query });
    }

    listSandboxImages({ enabledOnly } = {}) {
        return this.#request('GET', '/sandbox-images', { query: { enabled_only: enabledOnly } });
    }

    createSandboxImage(image) {
        return this.#request('POST', '/sandbox-images', { body: image });
    }

    getSandboxImage(id) {
        return this.#request('GET', `/sandbox-images/${encodeURIComponent(id)}`);
    }

    updateSandboxImage(id, image) {
        return this.#request('PUT', `/sandbox-images/${encodeURIComponent(id)}`, { body: image });
    }

    deleteSandboxImage(id) {
        return this.#request('DELETE', `/sandbox-images/${encodeURIComponent(id)}`);
    }

    listRegistries() {
        return this.#request('GET', '/registries');
    }

    createRegistry(registry) {
        return this.#request('POST', '/registries', { body: registry });
    }

    deleteRegistry(id) {
        return this.#request('DELETE', `/registries/${encodeURIComponent(id)}`);
    }

    listWorkspaces() {
        return this.#request('GET', '/workspaces');
    }

    createWorkspace(workspace) {
        return this.#request('POST', '/workspaces', { body: workspace });
    }

    getWorkspace(id) {
        return this.#request('GET', `/workspaces/${encodeURIComponent(id)}`);
    }

    deleteWorkspace(id) {
        return this.#request('DELETE', `/workspaces/${encodeURIComponent(id)}`);
    }

    listWorkspaceMembers(id) {
        return this.#request('GET', `/workspaces/${encodeURIComponent(id)}/members`);
    }

    addWorkspaceMember(id, { email, role }) {
        return this.#request('POST', `/workspaces/${encodeURIComponent(id)}/members`, { body: { email, role } });
    }

    removeWorkspaceMember(id, userId) {
        return this.#request('DELETE', `/workspaces/${encodeURIComponent(id)}/members/${encodeURIComponent(userId)}`);
    }

    async #request(method, path, { body, query = {}, within = DEFAULT_TIMEOUT_MS } = {}) {
        const headers = { authorization: `Bearer ${this.#token}`, accept: 'application/json' };
        if (body !== undefined) {
            headers['content-type'] = 'application/json';
        }
        const workspaceId = body?.workspaceId ?? this.#workspaceId;
        if (workspaceId) {
            headers['x-workspace-id'] = workspaceId;
        }
        const { workspaceId: _, ...fields } = body ?? {};
        const asked = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
        const search = asked.length > 0 ? `?${new URLSearchParams(asked.map(([name, value]) => [name, String(value)]))}` : '';
        const answer = await this.#fetch(`${this.#baseUrl}${path}${search}`, {
            method,
            headers,
            body: body === undefined ? undefined : JSON.stringify(renamed(fields, snake)),
            signal: AbortSignal.timeout(within),
        });
        const text = await answer.text();
        const value = text === '' ? undefined : parsed(text);
        if (!answer.ok) {
            throw new ModboxError(answer.status, value);
        }
        return renamed(value, camel);
    }
}

function parsed(text) {
    try {
        return JSON.parse(text);
    } catch {
        return { error: { message: text } };
    }
}

/** Keys whose values have keys that are the caller's own. */
const VERBATIM = new Set(['env_vars', 'envVars']);

/** The same value with other names of its keys. */
function renamed(value, name) {
    if (Array.isArray(value)) {
        return value.map((item) => renamed(item, name));
    }
    if (value === null || typeof value !== 'object') {
        return value;
    }
    const entries = Object.entries(value).filter(([, item]) => item !== undefined);
    return Object.fromEntries(entries.map(([key, item]) => [name(key), VERBATIM.has(key) ? item : renamed(item, name)]));
}

function snake(key) {
    return key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function camel(key) {
    return key.replace(/_([a-z0-9])/g, (_, letter) => letter.toUpperCase());
}
