-- A sandbox whose files are kept can be stopped and started again: why and since when it is stopped, and how often it was started.
alter table sandboxes add column starts integer not null default 1;
alter table sandboxes add column stop_reason text;
alter table sandboxes add column stopped_at integer;

create index sandboxes_stopped on sandboxes (id) where state = 'stopped';

create trigger sandbox_stopped after update on sandboxes when new.state = 'stopped' and old.state <> 'stopped' begin
    update tenants set last_event = last_event + 1 where name = new.tenant;
    insert into events (tenant, number, at, kind, sandbox, reason)
        select name, last_event, cast(unixepoch('subsec') * 1000000 as integer), 'sandbox.stopped', new.id, new.stop_reason
        from tenants where name = new.tenant;
end;

create trigger sandbox_started after update on sandboxes when new.state = 'running' and new.starts > old.starts begin
    update tenants set last_event = last_event + 1 where name = new.tenant;
    insert into events (tenant, number, at, kind, sandbox)
        select name, last_event, cast(unixepoch('subsec') * 1000000 as integer), 'sandbox.started', new.id
        from tenants where name = new.tenant;
end;
