-- What a tenant may have in its workspaces.
alter table tenants add column workspace_bytes integer;
