/** A client in the shape that the documents of Modbox show. */

export interface ModboxClientOptions {
    /** An API token; `MODBOX_API_KEY` of the environment when absent. */
    token?: string;
    /** `MODBOX_BASE_URL` of the environment when absent, or else the hosted service. */
    baseUrl?: string;
    /** For every call that names none. */
    workspaceId?: string;
    /** In place of the global one. */
    fetch?: typeof fetch;
}

export type SandboxStatus = 'provisioning' | 'running' | 'destroyed';
export type WorkspaceRole = 'owner' | 'admin' | 'member' | 'viewer';

export interface ProvisionOptions {
    taskId?: string;
    imageId?: string | null;
    image?: string | null;
    envVars?: Record<string, string | null> | null;
    /** 60 to 86400. */
    ttlSeconds?: number | null;
    clientReference?: string | null;
    fastStart?: boolean | null;
    workspaceId?: string;
}

export interface SandboxCache {
    requested: boolean | null;
    status: string | null;
}

export interface ProvisionedSandbox {
    success: boolean;
    sandboxId: string | null;
    sandboxUrl: string | null;
    status: SandboxStatus;
    error: string | null;
    endpoint?: { baseUrl: string; apiUrl: string; accessToken?: string };
    capabilities?: Record<string, string>;
    cache?: SandboxCache;
}

export interface WaitResult {
    ready: boolean;
    elapsedSeconds: number;
    status?: SandboxStatus;
    reason?: 'timeout' | 'destroyed' | null;
}

export interface Sandbox {
    id: string;
    name: string;
    status: SandboxStatus;
    createdBy: string;
    createdAt: string;
    updatedAt: string;
    destroyedAt: string | null;
    expiresAt: string | null;
    image: string | null;
    sandboxUrl: string | null;
    capabilities: Record<string, string> | null;
}

export interface SandboxListItem {
    id: string;
    name: string;
    status: SandboxStatus;
    image: string | null;
    sandboxUrl: string | null;
    createdAt: string;
    destroyedAt: string | null;
}

export interface Monitoring {
    sandboxId: string;
    sandboxName: string;
    logs: { timestamp: string; stream: 'stdout' | 'stderr'; log: string }[];
    metrics: { timestamp: string; cpuUsage: number; memoryUsage: number }[];
}

export interface MonitoringQuery {
    since?: string;
    until?: string;
    limit?: number;
    stream?: 'stdout' | 'stderr';
    /** `logs`, `metrics`, or both with a comma. */
    include?: string;
}

export interface ImageFields {
    name: string;
    image: string;
    tag?: string;
    description?: string | null;
    enabled?: boolean;
    isDefault?: boolean;
    memoryMb?: number;
    readinessPort?: number | null;
    registryId?: string | null;
    ttlSeconds?: number | null;
}

export interface SandboxImage extends Required<ImageFields> {
    id: string;
    registryName: string | null;
    createdAt: string;
    updatedAt: string;
    workspaceId: string | null;
    cacheStatus?: string | null;
    cacheUpdatedAt?: string | null;
}

export interface RegistryFields {
    name: string;
    server: string;
    username: string;
    password: string;
    email?: string | null;
    enabled?: boolean;
}

export interface Registry extends Required<Omit<RegistryFields, 'password'>> {
    id: string;
    createdAt: string;
    updatedAt: string;
}

export interface WorkspaceMember {
    id: string;
    workspaceId: string;
    userId: string;
    email?: string | null;
    role: WorkspaceRole;
    addedBy: string;
    createdAt: string;
}

export interface WorkspaceListItem {
    id: string;
    name: string;
    description: string | null;
    createdBy: string;
    createdAt: string;
    myRole: WorkspaceRole;
}

export interface Workspace {
    id: string;
    name: string;
    description: string | null;
    realm: string;
    createdBy: string;
    createdAt: string;
    updatedAt: string;
    members: WorkspaceMember[];
}

/** An answer that is no success. */
export class ModboxError extends Error {
    constructor(status: number, body: unknown);
    readonly status: number;
    readonly code: string | null;
    readonly requestId: string | null;
    readonly retryable: boolean | null;
    readonly details: { field: string | null; issue: string }[] | null;
    readonly body: unknown;
}

export class ModboxClient {
    constructor(options?: ModboxClientOptions);
    healthCheck(): Promise<{ status: string; time?: string }>;
    provisionSandbox(options?: ProvisionOptions): Promise<ProvisionedSandbox>;
    /** Seconds: `timeout` 1 to 600, `pollInterval` 1 to 60. */
    waitForSandbox(options: { taskId: string; timeout?: number; pollInterval?: number }): Promise<WaitResult>;
    getSandbox(idOrTaskId: string): Promise<Sandbox>;
    getSandboxStatus(idOrTaskId: string): Promise<{ ready: boolean; name: string | null; error: string | null }>;
    listSandboxes(options?: { status?: SandboxStatus }): Promise<{ sandboxes: SandboxListItem[]; total: number }>;
    destroySandbox(options: { taskId: string }): Promise<{ success: boolean; error: string | null }>;
    getSandboxMonitoring(idOrTaskId: string, query?: MonitoringQuery): Promise<Monitoring>;
    listSandboxImages(options?: { enabledOnly?: boolean }): Promise<{ images: SandboxImage[]; total: number }>;
    createSandboxImage(image: ImageFields): Promise<SandboxImage>;
    getSandboxImage(id: string): Promise<SandboxImage>;
    updateSandboxImage(id: string, image: Partial<ImageFields>): Promise<SandboxImage>;
    deleteSandboxImage(id: string): Promise<void>;
    listRegistries(): Promise<{ registries: Registry[]; total: number }>;
    createRegistry(registry: RegistryFields): Promise<Registry>;
    deleteRegistry(id: string): Promise<void>;
    listWorkspaces(): Promise<{ workspaces: WorkspaceListItem[]; total: number }>;
    createWorkspace(workspace: { name: string; description?: string | null }): Promise<Workspace>;
    getWorkspace(id: string): Promise<Workspace>;
    deleteWorkspace(id: string): Promise<void>;
    listWorkspaceMembers(id: string): Promise<WorkspaceMember[]>;
    addWorkspaceMember(id: string, member: { email: string; role?: WorkspaceRole }): Promise<WorkspaceMember>;
    removeWorkspaceMember(id: string, userId: string): Promise<void>;
}
