-- Addresses that are told what happens, and how far each has been told. The secret is kept as it is, because messages are signed with it.
create table webhooks (
    id              text    primary key not null,
    tenant          text    not null references tenants (name),
    url             text    not null,
    secret          blob    not null,
    kinds           text    not null,
    description     text    not null,
    created_at      integer not null,
    told_until      integer not null,
    last_event      integer,
    last_success_at integer,
    failures        integer not null,
    failed_at       integer,
    failure         text,
    next_attempt_at integer,
    missed          integer not null,
    disabled        integer not null
) strict, without rowid;

create index webhooks_of_tenant on webhooks (tenant, created_at, id);
