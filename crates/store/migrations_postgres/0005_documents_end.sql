-- A document that is no sandbox's may go with the record of one all the same, and by itself at a time.
alter table caisson.documents add column until_us bigint;
alter table caisson.documents add column sandbox text;

create index documents_until on caisson.documents (until_us) where until_us is not null;
create index documents_with_sandbox on caisson.documents (sandbox) where sandbox is not null;

create or replace function caisson.forget_documents() returns trigger language plpgsql as $$
begin
    delete from caisson.documents where owner = old.id;
    delete from caisson.documents where sandbox = old.id;
    return null;
end
$$;
