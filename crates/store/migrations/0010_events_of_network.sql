-- What a sandbox may reach is in its spec, and can be changed while it lives.
drop trigger sandbox_updated;

create trigger sandbox_updated after update on sandboxes
when new.state <> 'ended' and (new.lifetime_us is not old.lifetime_us or new.idle_timeout_us is not old.idle_timeout_us
    or new.metadata <> old.metadata or new.spec <> old.spec)
begin
    update tenants set last_event = last_event + 1 where name = new.tenant;
    insert into events (tenant, number, at, kind, sandbox)
        select name, last_event, cast(unixepoch('subsec') * 1000000 as integer), 'sandbox.updated', new.id
        from tenants where name = new.tenant;
end;
