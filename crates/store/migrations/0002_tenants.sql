-- Whose things are. What is older than tenants is the default tenant's.
alter table sandboxes add column tenant text not null default 'default';
alter table executions add column tenant text not null default 'default';

drop index sandboxes_living_name;
create unique index sandboxes_living_name on sandboxes (tenant, name) where name is not null and state <> 'ended';
drop index sandboxes_newest;
create index sandboxes_newest on sandboxes (tenant, created_at desc, id desc);

create table tenants (
    name                  text primary key not null,
    sandboxes             integer,
    executions_per_minute integer,
    memory_bytes          integer,
    disk_bytes            integer
) strict, without rowid;

insert into tenants (name) values ('default');

-- Of a key only its hash (SHA-256) is kept.
create table keys (
    id         text    primary key not null,
    hash       blob    not null unique,
    tenant     text    not null references tenants (name),
    scope      text    not null,
    note       text    not null,
    created_at integer not null,
    expires_at integer
) strict, without rowid;

-- Answers to requests that may come again.
create table answers (
    tenant      text    not null,
    key         text    not null,
    fingerprint blob    not null,
    status      integer not null,
    body        blob    not null,
    at          integer not null,
    unique (tenant, key)
) strict;

create index answers_oldest on answers (at);
