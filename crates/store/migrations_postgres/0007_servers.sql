-- The servers on this database. Each is known by its data directory, and has a lease by this clock; one without an address is alone.
drop table caisson.server;

create table caisson.servers (
    id          text collate "C" primary key,
    -- The present run: a row that is another run's is of no use to this one.
    run         text   not null,
    url         text,
    version     text   not null,
    joined_at   bigint not null,
    lease_until bigint not null
);

-- Who hosts it. Its server may be gone, and come back.
alter table caisson.sandboxes add column server text collate "C";
create index sandboxes_of_server on caisson.sandboxes (server) where state <> 'ended';

-- What one server does for all of them.
create table caisson.roles (
    name   text primary key,
    server text collate "C" not null references caisson.servers (id) on delete cascade
);

-- What all of them have in common and nobody else knows.
create table caisson.secrets (
    one    boolean primary key default true check (one),
    secret bytea not null
);

-- Requests that may come again and are being carried out, and where.
create table caisson.answers_under_way (
    tenant text not null,
    key    text not null,
    server text collate "C" not null references caisson.servers (id) on delete cascade,
    primary key (tenant, key)
);

-- Grows in the transaction that changes what servers have in memory.
create table caisson.changes (
    one    boolean primary key default true check (one),
    number bigint not null
);

insert into caisson.changes (number) values (1);

create function caisson.tell_servers() returns trigger language plpgsql as $$
begin
    update caisson.changes set number = number + 1;
    return null;
end
$$;

create trigger keys_changed after insert or delete on caisson.keys for each row execute function caisson.tell_servers();
create trigger webhooks_changed after insert or delete on caisson.webhooks for each row execute function caisson.tell_servers();
create trigger tenants_made after insert on caisson.tenants for each row execute function caisson.tell_servers();
create trigger quotas_changed after update of sandboxes, executions_per_minute, memory_bytes, disk_bytes, workspace_bytes
    on caisson.tenants for each row execute function caisson.tell_servers();
