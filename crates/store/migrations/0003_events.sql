-- What has happened to sandboxes and executions, numbered for each tenant. The database itself writes it, in the statement that changes the
-- record: there is no change without its event, and no event without its change.
alter table tenants add column last_event integer not null default 0;

create table events (
    tenant    text    not null,
    number    integer not null,
    at        integer not null,
    kind      text    not null,
    sandbox   text    not null,
    name      text,
    reason    text,
    message   text,
    execution text,
    status    text,
    exit_code integer,
    signal    integer,
    primary key (tenant, number)
) strict, without rowid;

create index events_oldest on events (at);

create trigger sandbox_created after insert on sandboxes begin
    insert into tenants (name, last_event) values (new.tenant, 1) on conflict (name) do update set last_event = last_event + 1;
    insert into events (tenant, number, at, kind, sandbox, name)
        select name, last_event, cast(unixepoch('subsec') * 1000000 as integer), 'sandbox.created', new.id, new.name
        from tenants where name = new.tenant;
end;

create trigger sandbox_updated after update on sandboxes
when new.state <> 'ended' and (new.lifetime_us is not old.lifetime_us or new.idle_timeout_us is not old.idle_timeout_us
    or new.metadata <> old.metadata)
begin
    update tenants set last_event = last_event + 1 where name = new.tenant;
    insert into events (tenant, number, at, kind, sandbox)
        select name, last_event, cast(unixepoch('subsec') * 1000000 as integer), 'sandbox.updated', new.id
        from tenants where name = new.tenant;
end;

create trigger sandbox_ended after update on sandboxes when new.state = 'ended' and old.state <> 'ended' begin
    update tenants set last_event = last_event + 1 where name = new.tenant;
    insert into events (tenant, number, at, kind, sandbox, reason, message)
        select name, last_event, cast(unixepoch('subsec') * 1000000 as integer), 'sandbox.ended', new.id, new.tombstone_reason,
            new.tombstone_message
        from tenants where name = new.tenant;
end;

create trigger execution_started after insert on executions begin
    update tenants set last_event = last_event + 1 where name = new.tenant;
    insert into events (tenant, number, at, kind, sandbox, execution)
        select name, last_event, cast(unixepoch('subsec') * 1000000 as integer), 'execution.started', new.sandbox, new.id
        from tenants where name = new.tenant;
end;

create trigger execution_ended after update on executions when new.status <> 'running' and old.status = 'running' begin
    update tenants set last_event = last_event + 1 where name = new.tenant;
    insert into events (tenant, number, at, kind, sandbox, execution, status, exit_code, signal)
        select name, last_event, cast(unixepoch('subsec') * 1000000 as integer), 'execution.ended', new.sandbox, new.id, new.status,
            new.exit_code, new.signal
        from tenants where name = new.tenant;
end;
