-- Times are microseconds since 1970, durations microseconds, everything JSON is an object or array owned by this store. Ids are ordered as bytes.
create table caisson.sandboxes (
    id                text collate "C" primary key,
    tenant            text    not null,
    name              text,
    state             text    not null,
    spec              text    not null,
    lifetime_us       bigint,
    idle_timeout_us   bigint,
    metadata          text    not null,
    -- Each key with its value, as a JSON array of the two: what lists are chosen by.
    pairs             text[]  not null,
    created_at        bigint  not null,
    last_active_at    bigint  not null,
    tombstone_reason  text,
    tombstone_message text,
    tombstone_at      bigint
);

create unique index sandboxes_living_name on caisson.sandboxes (tenant, name) where name is not null and state <> 'ended';
create index sandboxes_newest on caisson.sandboxes (tenant, created_at desc, id desc);
create index sandboxes_ended on caisson.sandboxes (tombstone_at, id) where state = 'ended';
create index sandboxes_living on caisson.sandboxes (id) where state <> 'ended';

create table caisson.executions (
    id                text collate "C" primary key,
    sandbox           text collate "C" not null references caisson.sandboxes (id) on delete cascade,
    tenant            text    not null,
    argv              text    not null,
    started_at        bigint  not null,
    status            text    not null,
    exit_code         bigint,
    signal            bigint,
    message           text,
    duration_us       bigint,
    cpu_us            bigint,
    peak_memory_bytes bigint,
    stdout_total      bigint,
    stdout_dropped    bigint,
    stderr_total      bigint,
    stderr_dropped    bigint
);

create index executions_newest on caisson.executions (sandbox, started_at desc, id desc);
create index executions_running on caisson.executions (id) where status = 'running';

-- The run of the server that the records belong to at present. A connection of any other is of no use.
create table caisson.server (
    one boolean primary key default true check (one),
    run text not null
);
