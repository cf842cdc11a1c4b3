-- A sandbox whose files are kept can be stopped and started again: why and since when it is stopped, and how often it was started.
alter table caisson.sandboxes add column starts bigint not null default 1, add column stop_reason text, add column stopped_at bigint;

create index sandboxes_stopped on caisson.sandboxes (id) where state = 'stopped';

create or replace function caisson.tell_of_sandbox() returns trigger language plpgsql as $$
begin
    insert into caisson.events (tenant, number, at, kind, sandbox, name, reason, message) values (
        new.tenant, caisson.next_event(new.tenant), caisson.now_us(), tg_argv[0], new.id,
        case tg_argv[0] when 'sandbox.created' then new.name end,
        case tg_argv[0] when 'sandbox.ended' then new.tombstone_reason when 'sandbox.stopped' then new.stop_reason end,
        case tg_argv[0] when 'sandbox.ended' then new.tombstone_message end);
    return null;
end
$$;

create trigger sandbox_stopped after update on caisson.sandboxes for each row when (new.state = 'stopped' and old.state <> 'stopped')
    execute function caisson.tell_of_sandbox('sandbox.stopped');

create trigger sandbox_started after update on caisson.sandboxes for each row when (new.state = 'running' and new.starts > old.starts)
    execute function caisson.tell_of_sandbox('sandbox.started');
