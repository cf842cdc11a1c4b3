create table caisson.tenants (
    name                  text   primary key,
    sandboxes             bigint,
    executions_per_minute bigint,
    memory_bytes          bigint,
    disk_bytes            bigint,
    last_event            bigint not null default 0
);

insert into caisson.tenants (name) values ('default');

-- Of a key only its hash (SHA-256) is kept.
create table caisson.keys (
    id         text   primary key,
    hash       bytea  not null unique,
    tenant     text   not null references caisson.tenants (name),
    scope      text   not null,
    note       text   not null,
    created_at bigint not null,
    expires_at bigint
);

-- Answers to requests that may come again.
create table caisson.answers (
    tenant      text   not null,
    key         text   not null,
    fingerprint bytea  not null,
    status      bigint not null,
    body        bytea  not null,
    at          bigint not null,
    primary key (tenant, key)
);

create index answers_oldest on caisson.answers (at);

-- Addresses that are told what happens, and how far each has been told. The secret is kept as it is, because messages are signed with it.
create table caisson.webhooks (
    id              text collate "C" primary key,
    tenant          text   not null references caisson.tenants (name),
    url             text   not null,
    secret          bytea  not null,
    kinds           text   not null,
    description     text   not null,
    created_at      bigint not null,
    told_until      bigint not null,
    last_event      bigint,
    last_success_at bigint,
    failures        bigint not null,
    failed_at       bigint,
    failure         text,
    next_attempt_at bigint,
    missed          bigint not null,
    disabled        bigint not null
);

create index webhooks_of_tenant on caisson.webhooks (tenant, created_at, id);

-- What dialects keep, each for itself. The text is JSON and nobody's business but theirs.
create table caisson.documents (
    number bigint generated always as identity primary key,
    kind   text   not null,
    owner  text   not null,
    id     text   not null,
    body   text   not null,
    unique (kind, owner, id)
);

create index documents_of_owner on caisson.documents (owner);

-- What is kept about a sandbox goes with its record.
create function caisson.forget_documents() returns trigger language plpgsql as $$
begin
    delete from caisson.documents where owner = old.id;
    return null;
end
$$;

create trigger documents_of_sandbox after delete on caisson.sandboxes for each row execute function caisson.forget_documents();
