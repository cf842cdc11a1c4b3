-- What has happened to sandboxes and executions, numbered for each tenant. The database itself writes it, in the statement that changes the
-- record: there is no change without its event, and no event without its change. Whoever takes a number holds its tenant's row until the end
-- of the transaction, so numbers have no gaps and are seen in their order.
create table caisson.events (
    tenant    text   not null,
    number    bigint not null,
    at        bigint not null,
    kind      text   not null,
    sandbox   text   not null,
    name      text,
    reason    text,
    message   text,
    execution text,
    status    text,
    exit_code bigint,
    signal    bigint,
    primary key (tenant, number)
);

create index events_oldest on caisson.events (at);
-- A follower of one sandbox reads its events alone, without looking at those of the tenant's other sandboxes.
create index events_of_sandbox on caisson.events (tenant, sandbox, number);

create function caisson.next_event(of_tenant text) returns bigint language sql as $$
    insert into caisson.tenants as t (name, last_event) values (of_tenant, 1)
        on conflict (name) do update set last_event = t.last_event + 1 returning last_event
$$;

create function caisson.now_us() returns bigint language sql as $$
    select (extract(epoch from clock_timestamp()) * 1000000)::bigint
$$;

create function caisson.tell_of_sandbox() returns trigger language plpgsql as $$
begin
    insert into caisson.events (tenant, number, at, kind, sandbox, name, reason, message) values (
        new.tenant, caisson.next_event(new.tenant), caisson.now_us(), tg_argv[0], new.id,
        case tg_argv[0] when 'sandbox.created' then new.name end,
        case tg_argv[0] when 'sandbox.ended' then new.tombstone_reason end,
        case tg_argv[0] when 'sandbox.ended' then new.tombstone_message end);
    return null;
end
$$;

create function caisson.tell_of_execution() returns trigger language plpgsql as $$
begin
    insert into caisson.events (tenant, number, at, kind, sandbox, execution, status, exit_code, signal) values (
        new.tenant, caisson.next_event(new.tenant), caisson.now_us(), tg_argv[0], new.sandbox, new.id,
        case tg_argv[0] when 'execution.ended' then new.status end, new.exit_code, new.signal);
    return null;
end
$$;

create trigger sandbox_created after insert on caisson.sandboxes for each row
    execute function caisson.tell_of_sandbox('sandbox.created');

create trigger sandbox_updated after update on caisson.sandboxes for each row
    when (new.state <> 'ended' and (new.lifetime_us is distinct from old.lifetime_us
        or new.idle_timeout_us is distinct from old.idle_timeout_us or new.metadata <> old.metadata))
    execute function caisson.tell_of_sandbox('sandbox.updated');

create trigger sandbox_ended after update on caisson.sandboxes for each row when (new.state = 'ended' and old.state <> 'ended')
    execute function caisson.tell_of_sandbox('sandbox.ended');

create trigger execution_started after insert on caisson.executions for each row
    execute function caisson.tell_of_execution('execution.started');

create trigger execution_ended after update on caisson.executions for each row when (new.status <> 'running' and old.status = 'running')
    execute function caisson.tell_of_execution('execution.ended');
