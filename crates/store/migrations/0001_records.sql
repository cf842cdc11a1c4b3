-- Times are microseconds since 1970, durations microseconds, everything JSON is an object or array owned by this store.
create table sandboxes (
    id                text    primary key not null,
    name              text,
    state             text    not null,
    spec              text    not null,
    lifetime_us       integer,
    idle_timeout_us   integer,
    metadata          text    not null,
    created_at        integer not null,
    last_active_at    integer not null,
    tombstone_reason  text,
    tombstone_message text,
    tombstone_at      integer
) strict, without rowid;

create unique index sandboxes_living_name on sandboxes (name) where name is not null and state <> 'ended';
create index sandboxes_newest on sandboxes (created_at desc, id desc);
create index sandboxes_ended on sandboxes (tombstone_at) where state = 'ended';

create table executions (
    id                text    primary key not null,
    sandbox           text    not null references sandboxes (id) on delete cascade,
    argv              text    not null,
    started_at        integer not null,
    status            text    not null,
    exit_code         integer,
    signal            integer,
    message           text,
    duration_us       integer,
    cpu_us            integer,
    peak_memory_bytes integer,
    stdout_total      integer,
    stdout_dropped    integer,
    stderr_total      integer,
    stderr_dropped    integer
) strict, without rowid;

create index executions_newest on executions (sandbox, started_at desc, id desc);
create index executions_running on executions (id) where status = 'running';
