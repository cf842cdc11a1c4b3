-- What a tenant may have in its workspaces.
alter table caisson.tenants add column workspace_bytes bigint;
